"""Depth estimation: a distance for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusion_eval.data import Samples
from fusion_eval.errors import TaskError
from fusion_eval.tasks.dense.maps import predict_map
from fusion_eval.tasks.dense.sums import DensePrediction, SummedStatistics
from fusion_eval.tasks.task import Prediction

__all__ = ["AbsoluteDepthError", "DepthEstimation", "RelativeDepthError"]


class AbsoluteDepthError(SummedStatistics):
    """Mean of `|predicted - true|` over the valid pixels, in the unit of the depth (metres in NYUv2).

    Example:
        >>> metric = AbsoluteDepthError()
        >>> metric.update(torch.tensor([[6.0, 3.0], [2.0, 1.0]]), torch.tensor([3, 1]))
        >>> float(metric.compute())
        2.0
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The mean over the valid pixels of all images."""
        return self.statistics[0] / self.count


class RelativeDepthError(SummedStatistics):
    """Mean of `|predicted - true| / true` over the valid pixels.

    Example:
        >>> metric = RelativeDepthError()
        >>> metric.update(torch.tensor([[6.0, 3.0], [2.0, 1.0]]), torch.tensor([3, 1]))
        >>> float(metric.compute())
        1.0
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The mean over the valid pixels of all images."""
        return self.statistics[1] / self.count


@dataclass(frozen=True)
class DepthEstimation(DensePrediction):
    """A distance for each pixel; see `DensePrediction`. A pixel of depth 0 is not valid.

    Metrics get the sums of absolute and relative errors of each image, `(n, 2)`, and the number of valid pixels. Each
    sample leaves the columns `pixels` (valid ones), `absolute_error` and `relative_error`, means over its valid
    pixels, 0 where it has none.

    Args:
        data: Where the samples come from; targets are depths `(height, width)` or `(1, height, width)`, 0 where
            unknown.
        metrics: Metric name to its factory: `AbsoluteDepthError`, `RelativeDepthError`.
        head: The decoder, from features `(n, d, y, x)` to depths `(n, 1, y', x')`.
    """

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are no depths."""
        targets = batch[1]
        one_channel = isinstance(targets, Tensor) and (
            targets.ndim == 3 or (targets.ndim == 4 and targets.shape[1] == 1)
        )
        if not one_channel:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else f"{targets!r:.100}"
            raise TaskError(f"targets should be depths (height, width) or (1, height, width); found {found}")
        if not ((targets >= 0) & torch.isfinite(targets)).all():
            raise TaskError("a depth is negative or not finite; where it is unknown it should be 0")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Sums of errors, and what is kept of each sample."""
        inputs, targets = batch
        predicted = predict_map(model, head, inputs, targets, channels=1).squeeze(1)
        true = targets.float().view(predicted.shape)
        valid = true > 0
        absolute = (predicted - true).abs().double()
        relative = absolute / true
        errors = [error.where(valid, 0.0).sum(dim=(1, 2)) for error in (absolute, relative)]
        pixels = valid.sum(dim=(1, 2))
        counted = pixels.clamp(min=1)
        columns = {
            "pixels": pixels,
            "absolute_error": errors[0] / counted,
            "relative_error": errors[1] / counted,
        }
        return Prediction(torch.stack(errors, dim=1), pixels, columns)
