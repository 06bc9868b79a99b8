"""Surface normals: a direction for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import cross, vector_norm

from fusion_eval.data import Samples
from fusion_eval.errors import TaskError
from fusion_eval.tasks.dense.histogram import count_pixels
from fusion_eval.tasks.dense.maps import predict_map
from fusion_eval.tasks.dense.sums import DensePrediction, SummedStatistics
from fusion_eval.tasks.task import Prediction

__all__ = ["AngleWithin", "MeanAngle", "MedianAngle", "SurfaceNormals"]

_PER_DEGREE = 20
"""Bins of the histogram of angles: the thresholds 11.25, 22.5 and 30 are edges of bins."""
_BINS = 180 * _PER_DEGREE


class MeanAngle(SummedStatistics):
    """Mean angle between predicted and true normals over the valid pixels, in degrees.

    Example:
        >>> metric = MeanAngle()
        >>> metric.update(torch.tensor([[60.0], [0.0]]), torch.tensor([3, 1]))  # the sums of 3 angles and of 1
        >>> float(metric.compute())
        15.0
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The mean over the valid pixels of all images."""
        return self.statistics[0] / self.count


class MedianAngle(SummedStatistics):
    """Median of the angles over the valid pixels of all images, in degrees.

    A median is no sum, and to keep 110,000 angles of each image would take gigabytes. It is therefore read off a
    histogram with bins of 0.05 degrees, with a straight line within the bin: it depends on no batch size, and is at
    most 0.05 degrees off, in practice a hundredth of that.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The median over the valid pixels of all images."""
        counts = self.statistics[1:].long()  # CUDA adds up integers, but not floats, in a reproducible way
        below = counts.cumsum(dim=0)
        half = self.pixels / 2
        position = torch.searchsorted(below.double(), half).clamp(max=_BINS - 1)
        inside = (half - (below[position] - counts[position])) / counts[position].clamp(min=1)
        return (position + inside) / _PER_DEGREE


class AngleWithin(SummedStatistics):
    """Share of the valid pixels whose normal is off by less than some degrees.

    Args:
        degrees: The threshold, a multiple of 0.05: 11.25, 22.5 and 30 are those of the literature.

    Raises:
        ValueError: `degrees` is no such number.
    """

    higher_is_better = True

    def __init__(self, degrees: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = round(degrees * _PER_DEGREE)
        if not 0 < self.bins <= _BINS or self.bins != degrees * _PER_DEGREE:
            raise ValueError(f"degrees: expected a multiple of {1 / _PER_DEGREE} up to 180, found {degrees!r}")

    def compute(self) -> Tensor:
        """The share over all images."""
        return self.statistics[1 : 1 + self.bins].sum() / self.count


@dataclass(frozen=True)
class SurfaceNormals(DensePrediction):
    """A direction for each pixel; see `DensePrediction`. A pixel whose normal is (0, 0, 0) is not valid.

    The angle is `atan2(|p x t|, p . t)`, which keeps its digits near 0 and 180 degrees, where the arc cosine loses
    them; the length of a prediction does not matter, and one of length 0 is off by 90 degrees. Metrics get the sum of
    the angles of each image and their histogram, `(n, 1 + 3600)`, and the number of valid pixels. Each sample leaves
    the columns `pixels` (valid ones) and `angle` (the mean over them in degrees, 0 where there are none).

    Args:
        data: Where the samples come from; targets are unit vectors `(3, height, width)`, 0 where unknown.
        metrics: Metric name to its factory: `MeanAngle`, `MedianAngle`, `AngleWithin`.
        head: The decoder, from features `(n, d, y, x)` to vectors `(n, 3, y', x')`.
    """

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are no vectors."""
        targets = batch[1]
        if not isinstance(targets, Tensor) or targets.ndim != 4 or targets.shape[1] != 3:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else f"{targets!r:.100}"
            raise TaskError(f"targets should be normals (3, height, width); found {found}")
        if not torch.isfinite(targets).all():
            raise TaskError("a normal is not finite; where it is unknown it should be (0, 0, 0)")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Sums and histograms of angles, and what is kept of each sample."""
        inputs, targets = batch
        predicted = predict_map(model, head, inputs, targets, channels=3)
        valid = (targets != 0).any(dim=1)
        angles = _angles(predicted.double(), targets.double())
        pixels = valid.sum(dim=(1, 2))
        total = angles.where(valid, 0.0).sum(dim=(1, 2))
        columns = {"pixels": pixels, "angle": total / pixels.clamp(min=1)}
        return Prediction(torch.cat([total[:, None], _histogram(angles, valid)], dim=1), pixels, columns)


def _angles(predicted: Tensor, true: Tensor) -> Tensor:
    """Degrees between vectors along dimension 1."""
    sine, cosine = vector_norm(cross(predicted, true, dim=1), dim=1), (predicted * true).sum(dim=1)
    return torch.atan2(sine, cosine).where((predicted != 0).any(dim=1), torch.pi / 2).rad2deg()


def _histogram(angles: Tensor, valid: Tensor) -> Tensor:
    """Shape `(n, 3600)`: of each image, how many valid pixels have an angle in each bin."""
    of_a_number = angles.nan_to_num()  # the sum says it if an angle is not one
    return count_pixels((of_a_number * _PER_DEGREE).long().clamp(max=_BINS - 1), valid, _BINS)
