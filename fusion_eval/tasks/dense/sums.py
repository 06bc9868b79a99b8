"""Ratios of sums over pixels, which no grouping of images into batches can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.errors import TaskError
from fusion_eval.tasks.task import Task

__all__ = ["DensePrediction", "SummedStatistics"]


class SummedStatistics(Metric):
    """Base of the metrics here: adds up what each image contributes, in float64, and computes from the sums.

    Example:
        >>> class MeanDepthError(SummedStatistics):
        ...     def compute(self):
        ...         return self.statistics[0] / self.count
        >>> metric = MeanDepthError()
        >>> metric.update(torch.tensor([[6.0], [2.0]]), torch.tensor([3, 1]))
        >>> float(metric.compute())
        2.0
    """

    is_differentiable = False
    full_state_update = False

    statistics: Tensor
    pixels: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("statistics", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, statistics: Tensor, pixels: Tensor) -> None:
        """Add images.

        Args:
            statistics: Shape `(n, ...)`: what a kind of task sums over the valid pixels of an image.
            pixels: Shape `(n,)`: how many of its pixels are valid.
        """
        self.statistics = self.statistics + statistics.sum(dim=0, dtype=torch.float64)
        self.pixels = self.pixels + pixels.sum(dtype=torch.float64)

    @property
    def count(self) -> Tensor:
        """The number of valid pixels, 1 where there is none: the task refuses that once it has seen all images."""
        return self.pixels.clamp(min=1)


@dataclass(frozen=True)
class DensePrediction(Task):
    """Base of the tasks whose target is a map with some pixels that count, and others that are masked.

    The backbone returns a map of features and the task's head decodes it, or the model returns the map itself; it is
    scaled to the size of the target. Metrics are ratios of sums over all valid pixels of all images, so an image with
    more valid pixels weighs more, and the batch size does not matter. They get `(statistics, pixels)` of each image,
    as `SummedStatistics` says: no map is ever kept.
    """

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics.

        Raises:
            TaskError: one is no `SummedStatistics`.
        """
        metrics = self.fresh_metrics()
        for name, metric in metrics.items():
            if not isinstance(metric, SummedStatistics):
                raise TaskError(
                    f"metrics.{name}: made {type(metric).__name__}; {type(self).__name__} takes the metrics of "
                    "fusion_eval.tasks that are made for it"
                )
        return metrics

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """None: a ratio of sums is no mean over samples.

        Raises:
            TaskError: no image has a valid pixel.
        """
        if not columns["pixels"].any():
            raise TaskError("no pixel of any target is valid")
        return None
