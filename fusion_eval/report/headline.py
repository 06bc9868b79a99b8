"""The number that runs are sorted by, and how much each task weighs in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_eval.errors import ConfigError, suggest

if TYPE_CHECKING:
    from fusion_eval.report.runs import Run

__all__ = ["choose_headline", "more_is_better", "shared_objective", "task_weights"]


def choose_headline(runs: Sequence[Run], key: str | None = None) -> str:
    """The number to sort by: the one asked for; else the mean of the primary metric, or of ratios if they differ.

    Args:
        runs: At least one of them has the number.
        key: As `objective` takes it.

    Raises:
        ConfigError: No run has it; the message lists what there is.
    """
    known = dict.fromkeys(key for run in runs for key in run.names())
    if key is not None:
        if key not in known:
            raise ConfigError(f"--sort: no run has {key!r}{suggest(key, known)}")
        return key
    primaries = sorted({run.primary(task) for run in runs for task in run.tasks})
    candidates = [f"mean.{primaries[0]}"] if len(primaries) == 1 else []
    for candidate in (*candidates, "normalised.mean_of_ratios"):
        if candidate in known:
            return candidate
    raise ConfigError(
        f"there is no mean to sort by: the primary metrics are {', '.join(primaries) or 'none'}; give --sort"
        f"{suggest('mean', known)}"
    )


def shared_objective(runs: Sequence[Run]) -> str | None:
    """The `objective` that was configured for all of the runs, and that one of them has; a `-` says less is better."""
    objectives = {run.config.get("objective") for run in runs}
    [objective] = objectives if len(objectives) == 1 else [None]
    known = objective is not None and any(objective.removeprefix("-") in run.names() for run in runs)
    return objective if known else None


def more_is_better(key: str, runs: Sequence[Run]) -> bool:
    """Whether more of a number is better, as far as the reports say: they do of primary metrics."""
    named = {
        run.document["higher_is_better"][task]
        for run in runs
        for task in run.tasks
        if key in (f"mean.{run.primary(task)}", f"worst.{run.primary(task)}", f"{task}.{run.primary(task)}")
    }
    return named != {False}


def task_weights(key: str, run: Run) -> dict[str, float] | None:
    """How a number depends on the primary metrics: the factor of each task's mean score, references taken as fixed.

    Returns:
        None where it is no such sum (the worst task, a metric other than the primary one).
    """
    group, _, name = key.partition(".")
    tasks = run.tasks
    if group in tasks and key == f"{group}.{run.primary(group)}":
        return {group: 1.0}
    if group == "mean" and all(run.primary(task) == name for task in tasks):
        return {task: 1 / len(tasks) for task in tasks}
    if group != "normalised" or run.value(key)[0] is None:
        return None
    references = run.document["references"]
    expert = {task: references["experts"][task][run.primary(task)] for task in tasks}
    if name in ("mean_of_ratios", "ratio_of_means"):
        scale = expert
    else:
        scale = {task: expert[task] - references["base"][task][run.primary(task)] for task in tasks}
    if name in ("mean_of_ratios", "share_of_gap"):
        return {task: 1 / (len(tasks) * scale[task]) for task in tasks}
    return dict.fromkeys(tasks, 1 / math.fsum(scale.values()))
