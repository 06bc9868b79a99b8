"""Metrics that torchmetrics lacks, or has with a trap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError

__all__ = ["CalibrationError", "CrossEntropy"]


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
