"""What a task is, whatever its kind: the contract between tasks and the engine that runs them."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torchmetrics import Metric

from fusion_eval.config import to_config
from fusion_eval.data import DataSource, Samples
from fusion_eval.errors import ConfigError, TaskError

__all__ = ["Head", "MetricFactory", "Prediction", "Task"]

MetricFactory = Callable[..., Metric]
"""Makes a fresh metric; in YAML a torchmetrics class with `_partial_: true`. A task adds what it alone knows, such as
the number of classes."""


class Head(Protocol):
    """A task-specific last layer that lies on disk: features `(n, d)` in, outputs `(n, c)` out."""

    def load(self) -> nn.Module:
        """Read the weights."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a task makes of one batch of `n` samples, on the device of the model.

    Attributes:
        outputs: Shape `(n, ...)`: the first argument of every metric's `update`.
        targets: Shape `(n, ...)`: the second.
        columns: Name to a tensor of shape `(n,)`, or to `n` strings: what is kept of each sample.
    """

    outputs: Tensor
    targets: Tensor
    columns: dict[str, Tensor | list[str]]


@dataclass(frozen=True)
class Task(ABC):
    """A data set, a way to run a model on it, and metrics. A value: nothing is loaded before the task runs.

    Args:
        data: Where the samples come from.
        metrics: Metric name to its factory, at least one; the first of which more is better is the headline of
            the task.
        head: The last layer of this task: one that lies on disk, or the name of a head that the model under test
            brings along if it brings any. None: the model's head of the task's own name, where it has one.

    Raises:
        ConfigError: if there is no metric, or a metric's name holds a dot or slash.
    """

    data: DataSource
    metrics: Mapping[str, MetricFactory]
    head: Head | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, DataSource):
            raise ConfigError(f"data: expected a fusion_eval.data source, found {self.data!r}")
        if not isinstance(self.metrics, Mapping) or not self.metrics:
            raise ConfigError("metrics: give at least one, as a mapping of a name to a torchmetrics metric")
        for name, factory in self.metrics.items():
            if "." in name or "/" in name:
                raise ConfigError(f"metrics.{name}: a metric's name has no '.' and no '/'")
            if not callable(factory) or isinstance(factory, Metric):
                raise ConfigError(f"metrics.{name}: give a factory (in YAML add `_partial_: true`), not {factory!r}")

    @property
    def primary(self) -> str:
        """The name of the first metric: the headline, unless it is one like a loss and another is not."""
        return next(iter(self.metrics))

    def model_key(self, name: str) -> str:
        """The name under which a model pool knows this task: its head's name if given, else the task's own."""
        return self.head if isinstance(self.head, str) else name

    def settings(self) -> dict[str, Any]:
        """All that decides the result apart from model, head and data, as plain values."""
        names = [field.name for field in fields(self) if field.name not in ("data", "head")]
        return {
            "kind": type(self).__qualname__,
            "order": list(self.metrics),  # it decides which one is the primary
            **{name: to_config(getattr(self, name)) for name in names},
        }

    def fresh_metrics(self, **known: Any) -> dict[str, Metric]:
        """One metric of each factory in `metrics`, for `build_metrics`.

        Args:
            **known: What the task alone knows, such as `num_classes`: a factory gets what it takes of it.

        Raises:
            TaskError: a factory refuses what it gets, or makes no metric.
        """
        metrics = {}
        for name, factory in self.metrics.items():
            try:
                make = _plain(factory)
                metric = make(**{key: value for key, value in known.items() if _takes(make, key)})
            except (TypeError, ValueError) as error:
                raise TaskError(f"metrics.{name}: {error}") from error
            if not isinstance(metric, Metric):
                raise TaskError(f"metrics.{name}: made {type(metric).__name__}, expected a torchmetrics.Metric")
            metrics[name] = metric
        return metrics

    @abstractmethod
    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics for loaded samples.

        Raises:
            TaskError: if a metric cannot be made.
        """

    @abstractmethod
    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse a bad batch while it is still on the CPU, where looking at values does not stall the device.

        Raises:
            TaskError: if a target is not what the task needs.
        """

    @abstractmethod
    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Run the model on one batch of `samples`.

        Raises:
            TaskError: if the model's output does not fit the task.
        """

    @abstractmethod
    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The values, shape `(n,)`, whose mean is the metric; None where the metric is no mean over samples."""


def _plain(factory: MetricFactory) -> MetricFactory:
    """The factory without Hydra's check at each call, which takes longer than most metrics take to be made.

    The target and its arguments were checked when the config was built.
    """
    if isinstance(factory, functools.partial):
        return functools.partial(factory.func, *factory.args, **factory.keywords)
    return factory


def _takes(factory: MetricFactory, name: str) -> bool:
    """Whether a factory has a parameter of this name that is not given by position already."""
    made, given = (factory.func, len(factory.args)) if isinstance(factory, functools.partial) else (factory, 0)
    names = _class_parameters(made) if isinstance(made, type) else tuple(inspect.signature(made).parameters)
    return name in names[given:]


@functools.lru_cache(maxsize=256)
def _class_parameters(factory: type) -> tuple[str, ...]:
    """Of its constructor, in order; a metric is made for every task of every model."""
    return tuple(inspect.signature(factory).parameters)
