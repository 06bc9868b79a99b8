"""The F1 score of one class."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.classification import BinaryF1Score

__all__ = ["ClassF1"]


class ClassF1(BinaryF1Score):
    """F1 of one class against all others, as GLUE (arXiv 1804.07461) has it for MRPC and QQP: twice the hits over hits
    and misses of targets and predictions.

    It is 0 where the class is neither a target nor predicted. torchmetrics' binary score takes one probability a
    sample; this one takes what every classification metric here gets.

    Args:
        num_classes: Accepted like every classification metric does; not needed.
        positive: Index of the class.

    Example:
        >>> import torch
        >>> metric = ClassF1()
        >>> metric.update(torch.eye(2)[[0, 1, 1, 1]], torch.tensor([0, 1, 1, 0]))
        >>> round(float(metric.compute()), 4)  # 2 hits, one false alarm
        0.8
    """

    def __init__(self, num_classes: int | None = None, positive: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if positive < 0 or (num_classes is not None and positive >= num_classes):
            raise ValueError(f"positive: expected the index of one of {num_classes} classes, found {positive!r}")
        self.num_classes = num_classes
        self.positive = positive

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add a batch: logits of shape `(n, c)`, or classes of shape `(n,)`; integer `target` of shape `(n,)`."""
        classes = predicted.argmax(dim=1) if predicted.ndim == 2 else predicted
        super().update((classes == self.positive).long(), (target == self.positive).long())
