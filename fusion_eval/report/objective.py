"""The one number of an evaluation that a sweeper optimises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusion_eval.errors import ConfigError, suggest
from fusion_eval.report.normalised import NORMALISED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fusion_eval.report.aggregates import Aggregates
    from fusion_eval.report.record import Report

__all__ = ["check_objective", "objective"]


def check_objective(path: str, tasks: Mapping[str, Collection[str]], *, references: bool) -> None:
    """Refuse, before anything is evaluated, what no report over these tasks can have.

    Args:
        path: As for `objective`.
        tasks: Task name to the names of its metrics.
        references: Whether base and experts are evaluated, too.

    Raises:
        ConfigError: There will be no such number; the message lists what there may be.

    Example:
        >>> check_objective("-mnist.loss", {"mnist": ["accuracy", "loss"]}, references=True)
        >>> check_objective("mean.acuracy", {"mnist": ["accuracy"]}, references=False)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fusion_eval.errors.ConfigError: objective: no 'mean.acuracy'; did you mean 'mean.accuracy'? Known: ...
    """
    shared = [metric for metric in next(iter(tasks.values())) if all(metric in own for own in tasks.values())]
    relative = [*(f"normalised.{name}" for name in NORMALISED), "worst.normalised"]
    known = [f"{group}.{metric}" for group in ("mean", "worst") for metric in shared]
    known += [f"{task}.{metric}" for task, metrics in tasks.items() for metric in metrics]
    name = path.removeprefix("-")
    if name in relative and not references:
        raise ConfigError(f"objective: {name!r} is relative to base and experts, so it needs references=true")
    if name not in (*known, *relative):
        raise ConfigError(f"objective: no {name!r}{suggest(name, known + relative * references)}")


def objective(report: Report, aggregates: Aggregates, path: str | None = None) -> float | None:
    """Look up a number of the report or of its aggregates.

    Args:
        report: Of the model.
        aggregates: Of the report.
        path: `mean.<metric>`, `normalised.<name>`, `worst.<name>` or `<task>.<metric>`, with a `-` in front where less
            of it is better; None: the mean of the primary metric.

    Returns:
        The number, negated where less of it is better, so that more of what is returned is; None for no path where the
        tasks have no primary metric in common of which more is better.

    Raises:
        ConfigError: There is no such number, it is not finite, or the path means two numbers; the message lists what
            there is, and why tasks or aggregates are missing.

    Example:
        >>> from fusion_eval.report.aggregates import Aggregates
        >>> from fusion_eval.report.record import Report, TaskResult
        >>> report = Report({"mnist": TaskResult({"accuracy": 0.6}, {}, "accuracy", count=10, seconds=0.1)})
        >>> objective(report, Aggregates(), "mnist.accuracy")
        0.6
    """
    if path is None:
        primaries = {(result.primary, result.higher_is_better) for result in report.results.values()}
        path = next((f"mean.{primary}" for primary, more in primaries if more and len(primaries) == 1), None)
    if path is None:
        return None
    if path.startswith("-"):
        return -(objective(report, aggregates, path[1:]) or 0.0)
    numbers = [
        *(
            (f"{group}.{name}", entry.value)
            for group, named in aggregates.groups.items()
            for name, entry in named.items()
        ),
        *((f"{task}.{metric}", value) for task, metrics in report.items() for metric, value in metrics.items()),
    ]
    found = [value for name, value in numbers if name == path]
    if len(found) > 1:
        raise ConfigError(f"objective {path!r} is both an aggregate and a metric of a task: rename the task")
    if found and not math.isfinite(found[0]):
        raise ConfigError(f"objective {path!r} is {found[0]}: nothing to optimise")
    if not found:
        names = [name for name, _ in numbers]
        reasons = [
            f"{task} failed with {failure.error}: {failure.message}" for task, failure in report.failures.items()
        ]
        raise ConfigError(
            f"objective {path!r} is not available{suggest(path, names)}"
            + "".join(f"\n{reason}" for reason in (*reasons, *aggregates.warnings))
        )
    return found[0]
