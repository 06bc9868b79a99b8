"""Regression on any input, to one number a sample or to several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score
from torchmetrics.utilities import dim_zero_cat

from fusion_eval.data import Samples
from fusion_eval.data.inputs import columns_of
from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward, logits_of
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["PearsonCorrelation", "Regression", "SpearmanCorrelation"]


class PearsonCorrelation(Metric):
    """Pearson's correlation of outputs and targets, in float64; with several outputs a sample, the mean over them.

    torchmetrics has one that gives NaN for outputs that are all equal. A merged model that has collapsed does give
    such: like scikit-learn's R2 of a constant, their correlation is 0 here.

    Example:
        >>> metric = PearsonCorrelation()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 10.0]))
        >>> round(float(metric.compute()), 4)
        0.8854
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    outputs: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("outputs", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: both of shape `(n,)` or `(n, k)`."""
        self.outputs.append(outputs.double())
        self.targets.append(targets.double())

    def compute(self) -> Tensor:
        """The correlation over all samples so far."""
        return _correlation(dim_zero_cat(self.outputs), dim_zero_cat(self.targets))


class SpearmanCorrelation(PearsonCorrelation):
    """Spearman's rank correlation: Pearson's of the ranks, where equal values share the mean of theirs.

    Example:
        >>> metric = SpearmanCorrelation()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 10.0]))
        >>> round(float(metric.compute()), 4)
        1.0
    """

    def compute(self) -> Tensor:
        """The rank correlation over all samples so far."""
        return _correlation(_ranks(dim_zero_cat(self.outputs)), _ranks(dim_zero_cat(self.targets)))


@dataclass(frozen=True)
class Regression(Task):
    """One number for each sample, or a vector of `k`.

    The model under test returns outputs `(n, k)`, or features `(n, d)` if there is a head, as for `Classification`; for
    targets `(n,)` the outputs are `(n, 1)`. Metrics get `(outputs, targets)` in float64, both `(n,)` or `(n, k)`. Each
    sample leaves the columns `target`, `prediction` and `error` (prediction minus target); with vectors
    `absolute_error` and `squared_error`, means over the `k` numbers.

    R2 and correlations are not defined where all targets are equal: this is refused for targets `(n,)`; of several, one
    that is constant counts as 0 in their mean.

    Example:
        >>> from fusion_eval.data import Arrays
        >>> Regression(Arrays("boston.npz"), {"spearman": SpearmanCorrelation, "mse": MeanSquaredError}).primary
        'spearman'
    """

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics, which sum in float64."""
        return {name: metric.set_dtype(torch.float64) for name, metric in self.fresh_metrics().items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are no finite numbers."""
        targets = batch[1]
        if not isinstance(targets, Tensor) or targets.ndim not in (1, 2) or targets.is_complex():
            raise TaskError(f"targets should be numbers, of shape (n,) or (n, k); found {targets!r:.100}")
        broken = ~torch.isfinite(targets)
        if broken.any():
            raise TaskError(f"a target is {float(targets[broken][0])}; targets should be finite numbers")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Outputs, and what is kept of each sample."""
        inputs, targets = batch
        outputs = logits_of(forward(model, inputs), head, inputs)
        expected = (len(targets), 1) if targets.ndim == 1 else tuple(targets.shape)
        if tuple(outputs.shape) != expected:
            hint = "" if head else "; if these are features, the task needs a head"
            raise TaskError(
                f"outputs should have shape {expected} (samples, numbers), found {tuple(outputs.shape)}{hint}"
            )
        outputs, targets = outputs.double().view(targets.shape), targets.double()
        error = outputs - targets
        if targets.ndim == 1:
            columns = {"target": targets, "prediction": outputs, "error": error}
        else:
            columns = {"absolute_error": error.abs().mean(dim=1), "squared_error": error.square().mean(dim=1)}
        return Prediction(outputs, targets, {**columns, **columns_of(inputs)})

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Squared and absolute errors for their means.

        Raises:
            TaskError: the targets are all equal, which leaves the metric undefined.
        """
        if type(metric) is MeanSquaredError and metric.squared and metric.num_outputs == 1:
            return columns["error"] ** 2 if "error" in columns else columns["squared_error"]
        if type(metric) is MeanAbsoluteError and metric.num_outputs == 1:
            return np.abs(columns["error"]) if "error" in columns else columns["absolute_error"]
        if isinstance(metric, (PearsonCorrelation, R2Score)) and "target" in columns:
            targets = columns["target"]
            if len(targets) and (targets == targets[0]).all():
                raise TaskError(f"{type(metric).__name__} is undefined: all {len(targets)} targets are {targets[0]}")
        return None


def _correlation(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = outputs - outputs.mean(dim=0), targets - targets.mean(dim=0)
    covariance = (outputs * targets).sum(dim=0)
    scale = outputs.square().sum(dim=0).sqrt() * targets.square().sum(dim=0).sqrt()
    return torch.where(scale > 0, covariance / scale, 0.0).clamp(-1, 1).mean()


def _ranks(values: Tensor) -> Tensor:
    """Rank of each value in its column, in float64; ties share the mean of their ranks."""
    columns = values.reshape(len(values), -1).unbind(dim=1)
    ranks = []
    for column in columns:
        _, position, counts = torch.unique(column, return_inverse=True, return_counts=True)
        mean_rank = counts.cumsum(dim=0) - (counts - 1) / 2
        ranks.append(mean_rank.double()[position])
    return torch.stack(ranks, dim=1).view(values.shape)
