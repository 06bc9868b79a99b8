"""What an evaluation leaves behind: a result or a failure per task, and the report they make together."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["References", "Report", "TaskFailure", "TaskResult"]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so a generated __eq__ would raise
class TaskResult:
    """What one model reached on one task.

    Args:
        metrics: Metric name to value over the whole data set.
        standard_errors: Metric name to the standard error of that value, in its unit; a metric is absent where the
            error is undefined, as for one sample.
        primary: The metric that stands for the task in tables and aggregates.
        count: Number of samples evaluated.
        seconds: Wall time of the task.
        samples: Column name to array of shape `(count,)`; for classification index, target, prediction, loss and
            confidence. May be empty.
        scores: Shape `(count,)`, real: values whose mean is the primary metric (for accuracy: 1 where correct, else 0);
            None where the primary metric is no mean over samples.
        fingerprints: What was evaluated to the digest of its content: "weights", "data", ...
        higher_is_better: Whether more of the primary metric is better; if not, it is never normalised.
        evaluated_at: When, UTC, ISO 8601; long ago where the result comes from a result store. Empty if unknown.

    Raises:
        ValueError: The primary metric is not among the metrics, or an array does not have `count` entries.
    """

    metrics: dict[str, float]
    standard_errors: dict[str, float]
    primary: str
    count: int
    seconds: float
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    scores: np.ndarray | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    higher_is_better: bool = True
    evaluated_at: str = ""

    def __post_init__(self) -> None:
        if self.primary not in self.metrics:
            raise ValueError(f"primary metric {self.primary!r} is not among the metrics: {', '.join(self.metrics)}")
        columns = self.samples if self.scores is None else {**self.samples, "scores": self.scores}
        for name, column in columns.items():
            if column.shape != (self.count,):
                raise ValueError(f"{name} has shape {column.shape}, but {self.count} samples were evaluated")

    @property
    def score(self) -> float:
        """The value of the primary metric."""
        return self.metrics[self.primary]


@dataclass(frozen=True)
class TaskFailure:
    """Why a task has no result.

    Args:
        error: Class name of the exception.
        message: Its message.
        traceback: The formatted traceback.
    """

    error: str
    message: str
    traceback: str

    @classmethod
    def from_exception(cls, error: BaseException) -> TaskFailure:
        """Record an exception.

        Example:
            >>> TaskFailure.from_exception(ValueError("no head")).message
            'no head'
        """
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


class Report(dict[str, dict[str, float]]):
    """The report `{task: {metric: value}}`: plain floats, equal to the dict it looks like, with more as attributes.

    Args:
        results: Task name to its result.
        failures: Task name to why there is none.

    Attributes:
        results: As given.
        failures: As given; a failed task is not a key of the report.

    Example:
        >>> Report({"mnist": TaskResult({"accuracy": 0.8}, {"accuracy": 0.02}, "accuracy", 400, 1.5)})
        {'mnist': {'accuracy': 0.8}}
    """

    def __init__(self, results: Mapping[str, TaskResult], failures: Mapping[str, TaskFailure] | None = None) -> None:
        super().__init__(
            {task: {name: float(value) for name, value in result.metrics.items()} for task, result in results.items()}
        )
        self.results = dict(results)
        self.failures = dict(failures or {})


@dataclass(frozen=True, eq=False)
class References:
    """What a merged model is measured against. Base and experts may be empty or lack tasks.

    Args:
        base: Task name to the result of the base model on it.
        experts: Task name to the result on it of that task's own expert.
        failures: Which model on which task to why it has no result.
    """

    base: dict[str, TaskResult] = field(default_factory=dict)
    experts: dict[str, TaskResult] = field(default_factory=dict)
    failures: dict[str, TaskFailure] = field(default_factory=dict)
