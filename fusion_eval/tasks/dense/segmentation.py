"""Semantic segmentation: one class out of `c` for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.data import Samples
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.tasks.dense.histogram import count_pixels
from fusion_eval.tasks.dense.maps import predict_map
from fusion_eval.tasks.dense.sums import DensePrediction, SummedStatistics
from fusion_eval.tasks.task import Prediction

__all__ = ["MeanIoU", "PixelAccuracy", "Segmentation"]


class MeanIoU(SummedStatistics):
    """Intersection over union, the mean over classes: intersection and union are summed over all images first.

    A class that no valid pixel has and none is predicted to have is left out of the mean (FusionBench's mean is then
    not a number).

    Example:
        >>> metric = MeanIoU()
        >>> metric.update(torch.tensor([[[2, 1, 0], [0, 1, 0], [0, 0, 0]]]), torch.tensor([4]))
        >>> round(float(metric.compute()), 4)  # 2 of 3 pixels, 1 of 2 pixels, and a class that is not there
        0.5833
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The mean over the classes that are there."""
        intersection = self.statistics.diag()
        union = self.statistics.sum(dim=0) + self.statistics.sum(dim=1) - intersection
        return (intersection / union.clamp(min=1)).sum() / (union > 0).sum().clamp(min=1)


class PixelAccuracy(SummedStatistics):
    """Share of the valid pixels whose class is right.

    Example:
        >>> metric = PixelAccuracy()
        >>> metric.update(torch.tensor([[[2, 1, 0], [0, 1, 0], [0, 0, 0]]]), torch.tensor([4]))
        >>> float(metric.compute())
        0.75
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The share over all images."""
        return self.statistics.diag().sum() / self.count


@dataclass(frozen=True)
class Segmentation(DensePrediction):
    """A class for each pixel; see `DensePrediction`.

    Metrics get the confusion matrix of each image, `(n, c, c)` with targets in rows, and the number of valid pixels.
    Each sample leaves the columns `pixels` (valid ones), `accuracy` and `loss` (cross entropy in nats), means over
    its valid pixels, 0 where it has none.

    Args:
        data: Where the samples come from; targets are integers `(height, width)` in `[0, c)`, or `ignore_index`.
        metrics: Metric name to its factory: `MeanIoU`, `PixelAccuracy`.
        head: The decoder, from features `(n, d, y, x)` to logits `(n, c, y', x')`.
        num_classes: `c`.
        ignore_index: The label of pixels that do not count: -1 in NYUv2, 255 in many others.

    Raises:
        ConfigError: there are fewer than two classes.
    """

    num_classes: int = 13
    ignore_index: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 2:
            raise ConfigError(f"num_classes: expected at least 2, found {self.num_classes!r}")

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse labels that are no class."""
        targets = batch[1]
        if not isinstance(targets, Tensor) or targets.dtype.is_floating_point or targets.ndim != 3:
            raise TaskError(f"targets should be integers (height, width); found {_form(targets)}")
        wrong = ((targets < 0) | (targets >= self.num_classes)) & (targets != self.ignore_index)
        if wrong.any():
            raise TaskError(
                f"label {int(targets[wrong][0])} is outside the {self.num_classes} classes [0, {self.num_classes - 1}] "
                f"and not ignore_index={self.ignore_index}"
            )

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Confusion matrices, and what is kept of each sample."""
        inputs, targets = batch
        targets = targets.long()
        logits = predict_map(model, head, inputs, targets, self.num_classes)
        valid = targets != self.ignore_index
        pixels = valid.sum(dim=(1, 2))
        loss = functional.cross_entropy(logits, targets, reduction="none", ignore_index=self.ignore_index)
        cells = targets * self.num_classes + logits.argmax(dim=1)
        confusion = count_pixels(cells, valid, self.num_classes**2).view(-1, self.num_classes, self.num_classes)
        counted = pixels.clamp(min=1)
        columns = {
            "pixels": pixels,
            "accuracy": confusion.diagonal(dim1=1, dim2=2).sum(dim=1) / counted,
            "loss": loss.sum(dim=(1, 2), dtype=torch.float64) / counted,
        }
        return Prediction(confusion, pixels, columns)


def _form(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"
