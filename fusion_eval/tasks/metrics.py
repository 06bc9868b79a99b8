"""Metrics that torchmetrics lacks, or has with a trap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix

from fusion_eval.tasks.weighted import Weighted, totals

__all__ = ["BalancedAccuracy", "CalibrationError", "CrossEntropy", "TopKAccuracy", "target_rank"]


def target_rank(logits: Tensor, target: Tensor) -> Tensor:
    """How many classes beat the target: a higher logit, or an equal one at a lower index, as `argmax` decides ties.

    Args:
        logits: Shape `(n, c)`.
        target: Shape `(n,)`, integer.

    Returns:
        Shape `(n,)`, int64, in `[0, c)`.
    """
    own = logits.gather(1, target[:, None])
    earlier = torch.arange(logits.shape[-1], device=logits.device) < target[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(dim=-1)


class TopKAccuracy(Metric):
    """Share of samples whose target is among the `k` highest logits; 1 where there are no more than `k` classes.

    torchmetrics refuses `k` above the number of classes, and leaves ties, common in half precision, to chance.

    Args:
        num_classes: Accepted like every classification metric does; not needed.
        k: How many of the highest logits count.

    Example:
        >>> metric = TopKAccuracy(k=2)
        >>> metric.update(torch.zeros(3, 4), torch.tensor([0, 1, 2]))  # of equal logits, the first rank highest
        >>> round(float(metric.compute()), 4)
        0.6667
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    count: Tensor

    def __init__(self, num_classes: int | None = None, k: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k: expected an integer >= 1, found {k!r}")
        self.num_classes = num_classes
        self.k = k
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch: `logits` of shape `(n, c)`, integer `target` of shape `(n,)`."""
        self.hits += (target_rank(logits, target) < self.k).sum()
        self.count += target.numel()

    def compute(self) -> Tensor:
        """The share over all samples so far."""
        return self.hits / self.count


class BalancedAccuracy(MulticlassConfusionMatrix):
    """Mean recall of the classes that have samples (scikit-learn's `balanced_accuracy_score`).

    torchmetrics' macro accuracy counts a class without samples as a recall of 0 as soon as it is predicted once.

    Example:
        >>> metric = BalancedAccuracy(num_classes=3)
        >>> metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> float(metric.compute())  # recalls 1 and 1/2; class 2 has no samples
        0.75
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The mean over the classes seen so far."""
        return _mean_recall(self.confmat.diag(), self.confmat.sum(dim=1))

    def weighted(self, logits: Tensor, target: Tensor) -> Weighted | None:
        """See `fusion_eval.tasks.weighted`."""
        if self.ignore_index is not None or logits.ndim != 2:
            return None
        hits = logits.argmax(dim=1) == target

        def of(weights: Tensor) -> Tensor:
            by_class = (totals(part, target, self.num_classes) for part in (weights * hits, weights))
            return _mean_recall(*by_class)

        return of


def _mean_recall(hits: Tensor, support: Tensor) -> Tensor:
    """Of classes that have samples; both of shape `(..., c)`."""
    recall = torch.where(support > 0, hits / support, 0)
    return recall.sum(dim=-1) / (support > 0).sum(dim=-1)


class CrossEntropy(Metric):
    """Cross entropy in nats, the mean over samples, so that it does not depend on the batch size.

    Args:
        num_classes: Accepted like every classification metric does; the loss itself does not need it.

    Example:
        >>> metric = CrossEntropy()
        >>> metric.update(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
        >>> round(float(metric.compute()), 4)  # ln 4
        1.3863
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch: `logits` of shape `(n, c)`, integer `target` of shape `(n,)`."""
        self.total += functional.cross_entropy(logits.float(), target, reduction="none").sum(dtype=torch.float64)
        self.count += target.numel()

    def compute(self) -> Tensor:
        """The mean over all samples so far."""
        return self.total / self.count


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error of logits (arXiv 1706.04599, eq. 3).

    torchmetrics applies the softmax only to batches that leave [0, 1]; a batch of small logits would be taken for
    probabilities. Here the softmax is always applied.

    Example:
        >>> metric = CalibrationError(num_classes=2, n_bins=1)
        >>> metric.update(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0]))
        >>> round(float(metric.compute()), 4)  # |0.5 - sigmoid(1)|
        0.2311
    """

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch: `logits` of shape `(n, c)`, integer `target` of shape `(n,)`."""
        super().update(logits.float().softmax(dim=-1), target)

    def weighted(self, logits: Tensor, target: Tensor) -> Weighted | None:
        """See `fusion_eval.tasks.weighted`."""
        if self.ignore_index is not None or logits.ndim != 2:
            return None
        confidence, predicted = logits.float().softmax(dim=-1).max(dim=-1)
        edges = torch.linspace(0, 1, self.n_bins + 1, device=confidence.device)
        bins = torch.bucketize(confidence, edges, right=True) - 1  # a confidence of 1 has one for itself
        surplus = confidence.double() - (predicted == target).double()

        def of(weights: Tensor) -> Tensor:
            count = totals(weights, bins, self.n_bins + 1)
            gaps = totals(weights * surplus, bins, self.n_bins + 1).abs() / count.clamp(min=1)
            if self.norm == "max":
                return gaps.amax(dim=-1)
            share = count / count.sum(dim=-1, keepdim=True)
            return (gaps * share).sum(dim=-1) if self.norm == "l1" else (gaps**2 * share).sum(dim=-1).sqrt()

        return of
