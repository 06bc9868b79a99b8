"""From one pass over a task to its values and their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from fusion_eval.errors import TaskError
from fusion_eval.report.statistics import (
    bootstrap_standard_error,
    standard_error_of_mean,
    weighted_bootstrap_errors,
)
from fusion_eval.tasks import Task
from fusion_eval.tasks.weighted import Weighted, weighted_form
from fusion_eval.threads import one_thread

__all__ = ["estimate_metrics"]

_AGREEMENT = 1e-5
"""How far a float32 metric may be from the mean of its own samples in float64."""


def estimate_metrics(
    task: Task,
    metrics: Mapping[str, Metric],
    logged: Mapping[str, float],
    columns: Mapping[str, np.ndarray],
    updates: tuple[np.ndarray, np.ndarray] | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Values and standard errors of a task's metrics.

    A metric that is a mean over samples is that mean in float64, checked against what torchmetrics logged in float32,
    with the standard error of the mean. Any other gets a bootstrap over the samples: with its weighted form (see
    `fusion_eval.tasks.weighted`), checked likewise, or else with torchmetrics itself as the statistic. Samples that
    come in groups, as their column "group" tells, share an error: the standard error of a mean is then the
    cluster-robust one, and the bootstrap is one over groups.

    Args:
        task: Tells which metrics are means over samples.
        metrics: The task's metrics.
        logged: Their values from the test loop.
        columns: What the task kept of each sample, arrays of shape `(n,)`.
        updates: Outputs and targets, of shape `(n, ...)`: arguments of `update`, for the bootstrap; None leaves those
            errors out.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        TaskError: a value is not finite, or a metric contradicts its own samples.
    """
    _require_numbers(columns)
    groups = columns.get("group")
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    no_means: dict[str, Metric] = {}
    for name, metric in metrics.items():
        if not np.isfinite(logged[name]):
            raise TaskError(f"{name} is {logged[name]}: the model's outputs are not finite on this task")
        scores = task.sample_values(metric, columns)
        if scores is None:
            values[name] = float(str(np.float32(logged[name])))  # the shortest decimal that is that float32
            errors[name] = None
            no_means[name] = metric
        else:
            values[name] = float(np.mean(scores, dtype=np.float64))
            errors[name] = standard_error_of_mean(scores, groups)
            _require_agreement(name, logged[name], values[name], "the samples have the mean")
    if updates is not None and resamples > 1:
        errors |= _bootstrap(no_means, values, updates, groups, resamples, seed)
    return values, {name: error for name, error in errors.items() if error is not None}


def _require_agreement(name: str, logged: float, value: float, what: str) -> None:
    if abs(value - logged) > _AGREEMENT * max(1.0, abs(value)):
        raise TaskError(f"{name}: logged {logged}, but {what} {value}")


def _require_numbers(columns: Mapping[str, np.ndarray]) -> None:
    """Refuse NaN samples: an `argmax` over NaN is a class like any other, so an accuracy alone would not show them."""
    for name, column in columns.items():
        if column.dtype.kind != "f":
            continue
        broken = np.flatnonzero(np.isnan(column))
        if len(broken):
            first = columns["index"][broken[0]]
            raise TaskError(
                f"{name} is NaN for {len(broken)} of {len(column)} samples, first for sample {first}: "
                "the model's outputs are not finite on this task"
            )


def _bootstrap(
    metrics: Mapping[str, Metric],
    values: Mapping[str, float],
    updates: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray | None,
    resamples: int,
    seed: int,
) -> dict[str, float | None]:
    """Errors of metrics, on the same resamples: those with a weighted form take a hundredth of the time of the others.

    A resample is too small to share: on a busy machine, waiting for a second thread costs ten times the work.
    """
    outputs, targets = map(torch.from_numpy, updates)
    at_once: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    errors: dict[str, float | None] = {}
    with one_thread(), torch.inference_mode():
        for name, metric in metrics.items():
            form = weighted_form(metric, outputs, targets)
            if form is None:
                statistic = _of_indices(metric, outputs, targets)
                errors[name] = bootstrap_standard_error(statistic, len(targets), resamples, seed, groups)
            else:
                at_once[name] = _of_weights(form)
                value = float(form(torch.ones(1, len(targets), dtype=torch.int64)))
                _require_agreement(name, values[name], value, "its weighted form gives")
        return errors | weighted_bootstrap_errors(at_once, len(targets), resamples, seed, groups)


def _of_weights(form: Weighted) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights: np.asarray(form(torch.from_numpy(weights)))


def _of_indices(metric: Metric, outputs: Tensor, targets: Tensor) -> Callable[[np.ndarray], float]:
    """The metric itself, updated with the samples that are drawn."""
    replica = metric.clone().cpu()
    replica.distributed_available_fn = lambda: False  # only one rank computes here

    def statistic(indices: np.ndarray) -> float:
        chosen = torch.from_numpy(indices)
        replica.reset()
        replica.update(outputs[chosen], targets[chosen])
        return float(replica.compute())

    return statistic
