"""What the tables show: the same cells for the terminal and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_eval.report.clusters import count_units
from fusion_eval.report.statistics import Estimate

if TYPE_CHECKING:
    from fusion_eval.report.aggregates import Aggregates
    from fusion_eval.report.record import References, Report, TaskResult

__all__ = [
    "AGGREGATE_HEADER",
    "TaskRow",
    "aggregate_meaning",
    "aggregate_rows",
    "failure_lines",
    "task_header",
    "task_rows",
]

_MISSING = "-"

AGGREGATE_HEADER = ("aggregate", "value", "of")

_NORMALISED = {
    "mean_of_ratios": "mean of ratios to experts",
    "ratio_of_means": "ratio of the two means",
    "share_of_gap": "mean of shares of gaps",
    "share_of_mean_gap": "share of the mean gap",
}


@dataclass(frozen=True)
class TaskRow:
    """One task.

    Args:
        cells: Text under each name of the header.
        failed: Whether the task has no result.
    """

    cells: tuple[str, ...]
    failed: bool = False


def task_header(report: Report) -> tuple[str, ...]:
    """Names of the columns; the primary metric has its own name where all tasks share it."""
    return ("task", "n", _common_primary(report) or "primary metric", "loss", "expert", "normalised")


def task_rows(report: Report, references: References, aggregates: Aggregates) -> list[TaskRow]:
    """A row a task, failed ones last.

    Args:
        report: Of the model.
        references: Of its experts: the primary metric each reaches on its own task.
        aggregates: Of the report: the ratios to the experts.

    Example:
        >>> from fusion_eval.report.aggregates import Aggregates
        >>> from fusion_eval.report.record import References, Report, TaskResult
        >>> report = Report({"mnist": TaskResult({"accuracy": 0.6}, {"accuracy": 0.05}, "accuracy", 96, 0.1)})
        >>> task_rows(report, References(), Aggregates())[0].cells
        ('mnist', '96', '0.6000 ± 0.0500', '-', '-', '-')
    """
    common = _common_primary(report)
    rows = []
    for task, result in report.results.items():
        expert = references.experts.get(task)
        score = _text(Estimate(result.score, result.standard_errors.get(result.primary)))
        cells = (
            task,
            _count(result),
            score if common else f"{result.primary} {score}",
            _number(result.metrics.get("loss")),
            _number(None if expert is None else expert.metrics.get(result.primary)),
            _text(aggregates.ratios.get(task)),
        )
        rows.append(TaskRow(cells))
    failed = (_MISSING, "failed", _MISSING, _MISSING, _MISSING)
    return rows + [TaskRow((task, *failed), failed=True) for task in report.failures]


def failure_lines(report: Report) -> list[str]:
    """The whole error of each failed task, a line each."""
    return [f"{task}: {failure.error}: {failure.message}" for task, failure in report.failures.items()]


def aggregate_rows(report: Report, aggregates: Aggregates) -> list[tuple[str, str, str]]:
    """A row an aggregate: the name that `objective` takes, its value, what it is; of the means, primary and loss."""
    shown = {"loss", *(result.primary for result in report.results.values())}
    rows = []
    for group, named in aggregates.groups.items():
        for name, entry in named.items():
            if group == "mean" and name not in shown:
                continue
            key = f"{group}.{name}"
            rows.append((key, _text(entry), aggregate_meaning(key, len(report), entry.task)))
    return rows


def aggregate_meaning(key: str, tasks: int, task: str | None = None) -> str:
    """What an aggregate is, in a few words.

    Args:
        key: Its name.
        tasks: How many tasks it is of.
        task: The one that it was found on, where it is of one.

    Example:
        >>> aggregate_meaning("mean.loss", 4), aggregate_meaning("worst.accuracy", 4, "mnist")
        ('unweighted mean of 4 tasks', 'worst task: mnist')
    """
    group, _, name = key.partition(".")
    if group == "mean":
        return f"unweighted mean of {tasks} tasks"
    return _NORMALISED.get(name, "") if group == "normalised" else f"worst task: {task}"


def _count(result: TaskResult) -> str:
    groups = result.samples.get("group")
    return f"{result.count:,}" + ("" if groups is None else f" in {count_units(result.count, groups):,} groups")


def _common_primary(report: Report) -> str | None:
    primaries = {result.primary for result in report.results.values()}
    return primaries.pop() if len(primaries) == 1 else None


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return _MISSING
    error = "" if estimate.standard_error is None else f" ± {_number(estimate.standard_error)}"
    return _number(estimate.value) + error


def _number(value: float | None) -> str:
    if value is None:
        return _MISSING
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
