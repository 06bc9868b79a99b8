"""From one pass over a task to its values and their standard errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torchmetrics import Metric

from fusion_eval.errors import TaskError
from fusion_eval.report.statistics import bootstrap_standard_error, standard_error_of_mean
from fusion_eval.tasks import Task
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
    with the standard error of the mean. Any other gets a bootstrap over the samples, with torchmetrics itself as the
    statistic. Samples that come in groups, as their column "group" tells, share an error: the standard error of a mean
    is then the cluster-robust one, and the bootstrap is one over groups.

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
    for name, metric in metrics.items():
        if not np.isfinite(logged[name]):
            raise TaskError(f"{name} is {logged[name]}: the model's outputs are not finite on this task")
        scores = task.sample_values(metric, columns)
        if scores is None:
            values[name] = float(str(np.float32(logged[name])))  # the shortest decimal that is that float32
            errors[name] = _bootstrap(metric, updates, groups, resamples, seed)
        else:
            values[name] = float(np.mean(scores, dtype=np.float64))
            errors[name] = standard_error_of_mean(scores, groups)
            if abs(values[name] - logged[name]) > _AGREEMENT * max(1.0, abs(values[name])):
                raise TaskError(f"{name}: logged {logged[name]}, but the samples have the mean {values[name]}")
    return values, {name: error for name, error in errors.items() if error is not None}


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
    metric: Metric,
    updates: tuple[np.ndarray, np.ndarray] | None,
    groups: np.ndarray | None,
    resamples: int,
    seed: int,
) -> float | None:
    if updates is None or resamples < 2:
        return None
    replica = metric.clone().cpu()
    replica.distributed_available_fn = lambda: False  # only one rank computes here
    predicted, expected = map(torch.from_numpy, updates)

    def statistic(indices: np.ndarray) -> float:
        chosen = torch.from_numpy(indices)
        replica.reset()
        replica.update(predicted[chosen], expected[chosen])
        return float(replica.compute())

    # a resample is too small to share: on a busy machine, waiting for a second thread costs ten times the work
    with one_thread(), torch.inference_mode():
        return bootstrap_standard_error(statistic, len(expected), resamples, seed, groups)
