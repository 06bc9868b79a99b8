"""Many runs side by side: sorted, with intervals, ties by significance, and what the best of many is worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_eval.errors import ConfigError, DataError
from fusion_eval.report.best import against_the_best
from fusion_eval.report.clusters import Groups, count_units
from fusion_eval.report.headline import choose_headline, more_is_better, shared_objective, task_weights
from fusion_eval.report.intervals import Measured, measure, measure_mean
from fusion_eval.report.race_line import race_result
from fusion_eval.report.runs import Run, label_runs
from fusion_eval.report.statistics import standard_error_of_mean

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Entry", "Leaderboard", "leaderboard"]


@dataclass(frozen=True, eq=False)
class _Samples:
    """What the samples of a run tell: task name to shape `(n,)`, a score each; of grouped ones also the group."""

    scores: dict[str, npt.NDArray[np.float64]]
    groups: dict[str, Groups]


@dataclass(frozen=True)
class Entry:
    """A line of a leaderboard.

    Args:
        label: What sets the run apart from the others.
        directory: Of the run; None for the base and the experts.
        headline: The number that is sorted by.
        tasks: Task name to its primary metric.
        others: Every other number of the report: "mean.loss", "normalised.share_of_gap", ...
        selected_on: The split that hyper-parameters were chosen on, or "not recorded".
        splits: Those it was measured on.
        p_value: Of the paired test against the best, adjusted for the number of runs (Holm); None where not testable.
        tied: Whether it is the best, or not significantly (5 %) worse.
    """

    label: str
    directory: Path | None
    headline: Measured
    tasks: dict[str, Measured]
    others: dict[str, Measured]
    selected_on: str = ""
    splits: tuple[str, ...] = ()
    p_value: float | None = None
    tied: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """Runs from best to worst.

    Args:
        sort: Name of the number that is sorted by.
        higher_is_better: Of that number.
        tasks: Their names and primary metrics, in order.
        lower: Names of the tasks of whose primary metric less is better.
        entries: The runs, best first.
        references: The base, and each expert on its own task.
        unranked: Runs and files that have no place, and why.
        warnings: What one must know before believing the order.
        corrected: What the best is expected to reach on other samples; None where not testable.
        groups: Task name to the number of groups that the samples of the best run come in, where they do.
    """

    sort: str
    higher_is_better: bool
    tasks: dict[str, str]
    lower: tuple[str, ...]
    entries: tuple[Entry, ...]
    references: tuple[Entry, ...]
    unranked: tuple[str, ...]
    warnings: tuple[str, ...]
    corrected: float | None = None
    groups: dict[str, int] = field(default_factory=dict)


def leaderboard(
    runs: Sequence[Run],
    unread: Iterable[str] = (),
    *,
    sort: str | None = None,
    ascending: bool | None = None,
    resamples: int = 9999,
    seed: int = 0,
) -> Leaderboard:
    """Rank runs.

    Runs on the same data are tested against the best of them: a paired bootstrap of the number that is sorted by (or
    flipped signs of whole groups, where samples come in groups), Holm over the pairs. Where that number is no weighted
    sum of primary metrics, there is no test.

    Args:
        runs: As `find_runs` returns them. Only complete ones are ranked.
        unread: Files that could not be read, and why.
        sort: The number to sort by, as `objective` takes it; None: the objective that the runs share, else the mean of
            the primary metric.
        ascending: Whether less is better; None: as the reports say of primary metrics.
        resamples: Of the tests.
        seed: Of the tests.

    Raises:
        ConfigError: No run is complete, or none has the number.
    """
    labels = dict(zip(map(id, runs), label_runs(runs), strict=True))
    unranked = [_why_unranked(labels[id(run)], run) for run in runs if run.status != "complete"]
    complete = [run for run in runs if run.status == "complete"]
    if not complete:
        raise ConfigError("no complete run to rank" + "".join(f"\n{line}" for line in (*unranked, *unread)))
    if sort is None and (objective := shared_objective(complete)) is not None:
        sort, ascending = objective.removeprefix("-"), objective.startswith("-") or ascending
    key = choose_headline(complete, sort)
    higher = more_is_better(key, complete) if ascending is None else not ascending
    unranked += [f"{labels[id(run)]}: it has no {key}" for run in complete if run.value(key)[0] is None]
    sign = 1.0 if higher else -1.0
    ranked = sorted(
        (run for run in complete if run.value(key)[0] is not None),
        key=lambda run: (-sign * (run.value(key)[0] or 0.0), labels[id(run)], str(run.directory)),
    )
    best, weights, warnings = ranked[0], task_weights(key, ranked[0]), _warnings(ranked)
    samples = [_samples(run, warnings) for run in ranked]
    entries = [_entry(run, labels[id(run)], key, own) for run, own in zip(ranked, samples, strict=True)]
    alike = [i for i, run in enumerate(ranked) if run.tasks == [*samples[i].scores] and _data(run) == _data(best)]
    corrected = None
    if weights is not None and len(alike) > 1 and alike[0] == 0:
        p_values, change = against_the_best(
            [samples[i].scores for i in alike],
            weights,
            samples[0].groups,
            higher_is_better=higher,
            resamples=resamples,
            seed=seed,
        )
        corrected = (best.value(key)[0] or 0.0) + change
        for i, p in zip(alike[1:], p_values, strict=True):
            entries[i] = replace(entries[i], p_value=p, tied=p >= 0.05)
    entries[0] = replace(entries[0], tied=True)
    tasks = {task: run.primary(task) for run in ranked for task in run.tasks}
    lower = tuple(task for task in tasks if any(run.document["higher_is_better"].get(task) is False for run in ranked))
    return Leaderboard(
        sort=key,
        higher_is_better=higher,
        tasks=tasks,
        lower=lower,
        entries=tuple(entries),
        references=_references(best, key, warnings),
        unranked=(*unranked, *unread),
        warnings=tuple(warnings),
        corrected=corrected,
        groups={task: count_units(len(own), own) for task, own in samples[0].groups.items()},
    )


def _why_unranked(label: str, run: Run) -> str:
    """A line about a run that is not complete."""
    if run.status == "dropped":
        return f"{label}: dropped {race_result(run.document['race'])}"
    state = "unfinished (it is running, or was killed)" if run.status == "running" else run.status
    error = run.document["error"]
    reasons = [*([f"{error['error']}: {error['message']}"] if error else []), *run.failures]
    return f"{label}: {state}" + "".join(f"; {' '.join(reason.split())}" for reason in reasons)


def _data(run: Run) -> dict[str, tuple[object, ...]]:
    return {task: run.data(task) for task in run.tasks}


def _samples(run: Run, warnings: list[str], role: str = "") -> _Samples:
    """Of every task that has per-sample scores."""
    found = _Samples({}, {})
    for task in run.tasks:
        try:
            columns = run.samples(task, role)
        except DataError as error:
            warnings.append(str(error))
            continue
        if "score" in columns:
            found.scores[task] = columns["score"].astype("float64")
            if "group" in columns:
                found.groups[task] = columns["group"]
    return found


def _entry(run: Run, label: str, key: str, samples: _Samples) -> Entry:
    tasks = {}
    for task in run.tasks:
        value, error = run.value(f"{task}.{run.primary(task)}")
        tasks[task] = measure(value, error, samples.scores.get(task), samples.groups.get(task))
    others = {name: measure(*run.value(name)) for name in run.names()}
    if key == f"mean.{run.primary(run.tasks[0])}" and (value := others[key].value) is not None:
        others[key] = _measure_mean(value, others[key].standard_error, run.tasks, samples)
    return Entry(label, run.directory, others[key], tasks, others, run.selected_on, tuple(run.splits))


def _references(run: Run, key: str, warnings: list[str]) -> tuple[Entry, ...]:
    """The base and the experts, as the best run was measured against them."""
    entries = []
    for role, label in (("base", "base"), ("experts", "experts, each on its own task")):
        found: Mapping[str, Mapping[str, float]] = run.document["references"][role]
        samples = _samples(run, warnings, role) if found else _Samples({}, {})
        tasks = {}
        for task in run.tasks:
            if task in found and (value := found[task].get(run.primary(task))) is not None:
                scores, groups = samples.scores.get(task), samples.groups.get(task)
                error = None if scores is None else standard_error_of_mean(scores, groups)
                tasks[task] = measure(value, error, scores, groups)
        comparable = key == f"mean.{run.primary(run.tasks[0])}" and tasks.keys() == set(run.tasks)
        if tasks:
            headline = _mean(tasks, samples) if comparable else Measured(None)
            entries.append(Entry(label, None, headline, tasks, {}))
    return tuple(entries)


def _mean(tasks: Mapping[str, Measured], samples: _Samples) -> Measured:
    cells = tasks.values()
    errors = [cell.standard_error for cell in cells if cell.standard_error is not None]
    error = math.hypot(*errors) / len(cells) if len(errors) == len(cells) else None
    return _measure_mean(math.fsum(cell.value or 0.0 for cell in cells) / len(cells), error, list(tasks), samples)


def _measure_mean(value: float, error: float | None, tasks: Collection[str], samples: _Samples) -> Measured:
    """The mean of the primary metric over tasks; that of groups of samples has the normal interval."""
    if samples.groups or not all(task in samples.scores for task in tasks):
        return measure(value, error)
    return measure_mean(value, error, [samples.scores[task] for task in tasks])


def _warnings(ranked: Sequence[Run]) -> list[str]:
    """What spoils the comparison, worst first."""
    warnings = []
    chosen = Counter(run.selected_on for run in ranked)
    if len(chosen) > 1:
        counted = ", ".join(f"{split} ({n} run{'s' if n > 1 else ''})" for split, n in sorted(chosen.items()))
        warnings.append(f"MIXED SELECTION: hyper-parameters were not all chosen on the same split: {counted}")
    leaking = sorted({run.selected_on for run in ranked if run.selected_on in (*run.splits, "oracle")})
    if leaking:
        warnings.append(
            f"CHOSEN AND MEASURED ON THE SAME SPLIT ({', '.join(leaking)}): the first places are better here than they"
            " will be on other data; evaluate the chosen one on a split that had no part in the choice"
        )
    if len({str(sorted(_data(run).items())) for run in ranked}) > 1:
        splits = sorted({"+".join(run.splits) or "unnamed split" for run in ranked})
        warnings.append(
            "DIFFERENT DATA: the runs were not all measured on the same tasks and samples"
            f" ({'; '.join(splits)}); only those that were measured as the best are tested against it"
        )
    return warnings
