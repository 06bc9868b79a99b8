"""Metrics of weighted samples: what a bootstrap asks for, all of its resamples at once.

A resample is the samples with a weight each: how often it was drawn. Where a metric is a function of sums over samples,
it need not be updated with every resample: weighted sums, by class or by bin, give it for all of them in one pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

__all__ = ["Weighted", "totals", "weighted_form"]

Weighted = Callable[[Tensor], Tensor]
"""Takes weights of shape `(r, n)`, int64, of `n` samples in `r` sets, and returns the metric of each, shape `(r,)`."""


def weighted_form(metric: Metric, outputs: Tensor, targets: Tensor) -> Weighted | None:
    """What gives a metric of weighted samples.

    A metric brings it as a method `weighted(outputs, targets)`; those that torchmetrics computes from hits and misses
    of classes (accuracy, precision, recall, F, specificity) have it from here. A derived class may measure something
    else, and has it only if it has such a method of its own.

    Args:
        metric: It; neither its state nor its settings are changed.
        outputs: Of all samples, shape `(n, ...)`, as `update` takes them.
        targets: Likewise.

    Returns:
        None where the metric has no such form.

    Example:
        >>> import torch
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> metric = MulticlassAccuracy(num_classes=2, average="micro")
        >>> form = weighted_form(metric, torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0]))  # two right, one wrong
        >>> form(torch.tensor([[1, 1, 1], [0, 1, 3]]))
        tensor([0.6667, 0.2500])
    """
    if "weighted" in vars(type(metric)):
        return cast("Weighted | None", cast("Any", metric).weighted(outputs, targets))
    if isinstance(metric, MulticlassStatScores) and type(metric).__module__.startswith("torchmetrics."):
        return _of_hits(metric, outputs, targets)
    return None


def totals(values: Tensor, members: Tensor, count: int) -> Tensor:
    """Sum values by class, or whatever samples belong to.

    Args:
        values: Shape `(r, n)`.
        members: Shape `(n,)`, int64 in `[0, count)`: to what each sample belongs.
        count: How many there are.

    Returns:
        Shape `(r, count)`.

    Example:
        >>> import torch
        >>> totals(torch.tensor([[1, 1, 1], [0, 1, 3]]), torch.tensor([2, 0, 2]), 3)
        tensor([[1, 0, 2],
                [1, 0, 3]])
    """
    return values.new_zeros(len(values), count).index_add_(1, members, values)


def _of_hits(metric: MulticlassStatScores, outputs: Tensor, targets: Tensor) -> Weighted | None:
    """By the formula of torchmetrics, which scores many sets at once if it is told that they are samples."""
    classes, plain = metric.num_classes, (metric.top_k, metric.ignore_index, metric.multidim_average)
    if classes is None or plain != (1, None, "global") or outputs.ndim != 2 or targets.ndim != 1:
        return None
    predicted = outputs.argmax(dim=1)
    hits = predicted == targets
    sets: Any = copy.copy(metric)
    sets.multidim_average = "samplewise"

    def of(weights: Tensor) -> Tensor:
        sets.tp = totals(weights * hits, targets, classes)
        sets.fp = totals(weights, predicted, classes) - sets.tp
        sets.fn = totals(weights, targets, classes) - sets.tp
        sets.tn = weights.sum(dim=1, keepdim=True) - sets.tp - sets.fp - sets.fn
        value: Tensor = type(metric).compute(sets)  # not that of the object, which would ask other ranks
        return value

    return of
