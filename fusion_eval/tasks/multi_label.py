"""Multi-label classification of any input: each of `c` labels holds or does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import Metric
from torchmetrics.classification import MultilabelExactMatch, MultilabelHammingDistance

from fusion_eval.data import Samples
from fusion_eval.data.inputs import columns_of
from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward, logits_of
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["MultiLabel"]

_THRESHOLD = 0.5
"""Of the probability above which a label is predicted: torchmetrics' default, and what the columns count by."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of `c` labels for each sample.

    The model under test returns logits `(n, c)`, or features `(n, d)` if there is a head, as for `Classification`.
    Metrics get `(probabilities, targets)`: the sigmoid of the logits, in float64, where two logits below 36 that differ
    do not become equal. Each sample leaves the columns `labels` (how many hold), `predicted` (how many are predicted,
    with a probability above 0.5), `wrong` (how many of the `c` are predicted wrongly) and `loss` (binary cross entropy
    in nats, the mean over labels).

    Args:
        data: Where the samples come from; targets are multi-hot, `(n, c)` of 0 and 1.
        metrics: Metric name to its factory, which gets `num_labels` if it takes it.
        head: See `Task`.
        num_labels: `c`, needed only where the data does not name its classes.

    Example:
        >>> from fusion_eval.data import Arrays
        >>> MultiLabel(Arrays("genes.npz"), {"exact_match": MultilabelExactMatch}, num_labels=14).primary
        'exact_match'
    """

    num_labels: int | None = None

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics for the labels of `samples`."""
        return self.fresh_metrics(num_labels=self._count_labels(samples))

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are not multi-hot."""
        targets, labels = batch[1], self._count_labels(samples)
        if not isinstance(targets, Tensor) or targets.ndim != 2 or targets.shape[1] != labels:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else f"{targets!r:.100}"
            raise TaskError(f"targets should be multi-hot, of shape (samples, {labels}); found {found}")
        wrong = (targets != 0) & (targets != 1)
        if wrong.any():
            raise TaskError(f"multi-hot targets are 0 or 1; found {targets[wrong][0].item()}")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Probabilities, and what is kept of each sample."""
        inputs, targets = batch
        logits = logits_of(forward(model, inputs), head, inputs)
        if logits.shape != targets.shape:
            hint = "" if head else "; if these are features, the task needs a head"
            raise TaskError(
                f"logits should have shape {tuple(targets.shape)} (samples, labels), found {tuple(logits.shape)}{hint}"
            )
        logits, targets = logits.double(), targets.long()
        probabilities = logits.sigmoid()
        predicted = probabilities > _THRESHOLD
        columns = {
            "labels": targets.sum(dim=1),
            "predicted": predicted.sum(dim=1),
            "wrong": (predicted != targets).sum(dim=1),
            "loss": binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(dim=1),
            **columns_of(inputs),
        }
        return Prediction(probabilities, targets, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Whether all labels are right for the exact match, the share of wrong ones for the Hamming distance."""
        if not isinstance(metric, (MultilabelExactMatch, MultilabelHammingDistance)):
            return None
        if metric.threshold != _THRESHOLD or metric.ignore_index is not None:
            return None
        if isinstance(metric, MultilabelExactMatch):
            return np.asarray(columns["wrong"] == 0)
        return np.asarray(columns["wrong"] / metric.num_labels) if metric.average in ("micro", "macro") else None

    def _count_labels(self, samples: Samples) -> int:
        if self.num_labels is not None:
            return self.num_labels
        if samples.class_names is None:
            raise TaskError("the data does not name its classes; set num_labels of the task")
        return len(samples.class_names)
