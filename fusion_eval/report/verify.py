"""Does a report still say what was measured? Its bytes, its files, its metrics and its aggregates, checked again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_eval.errors import DataError
from fusion_eval.report.aggregates import aggregate
from fusion_eval.report.recompute import recompute
from fusion_eval.report.record import References, Report, TaskResult
from fusion_eval.report.runs import Run, read_run
from fusion_eval.report.seal import file_digest
from fusion_eval.report.statistics import standard_error_of_mean

__all__ = ["Verdict", "verify"]

_TOLERANCE = 1e-5
"""Relative above one, else absolute: what float32 metrics may be away from float64 ones."""


Claim = tuple[str, float | None, float | None]
"""Name of a number, what the report says, and what its samples say; None where they do not tell."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Args:
        passed: What was checked and is right, a line each.
        failed: What is wrong, a line each.
        unchecked: Names of the numbers that cannot be computed from the files.
    """

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    unchecked: tuple[str, ...] = ()


def verify(path: Path) -> Verdict:
    """Check a report against its own digest, its per-sample files, and itself.

    * The bytes of report.json and of every per-sample file are those that were written; no file is missing or strange.
      report.md and report.html, which are made from these, are not sealed.
    * Each task has as many samples as it says, each of them once.
    * Metrics, standard errors and aggregates are what the samples say, as far as they tell.

    Args:
        path: A report.json, or its directory.

    Raises:
        DataError: There is no such file.
    """
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        run = read_run(path)
        passed = [f"report.json: unchanged since it was written; status {run.status}"]
        if wrong := list(_wrong_files(run)):
            return Verdict(tuple(passed), tuple(wrong))
        claims = [*_task_claims(run), *_aggregate_claims(run)]
    except DataError as error:
        return Verdict((), (str(error),))
    passed.append(f"samples: {len(run.document['samples'])} files, unchanged")
    told = [(name, said, found) for name, said, found in claims if found is not None]
    failed = [
        f"{n}: the report says {said}, its samples say {found}" for n, said, found in told if not _agree(said, found)
    ]
    passed.append(f"numbers: {len(told) - len(failed)} of {len(claims)} computed again")
    return Verdict(tuple(passed), tuple(failed), tuple(name for name, _, found in claims if found is None))


def _wrong_files(run: Run) -> Iterator[str]:
    known = run.document["samples"]
    for name, digest in known.items():
        file = run.directory / name
        if not file.is_file():
            yield f"{name}: missing"
        elif file_digest(file) != digest:
            yield f"{name}: changed after it was written"
    for file in sorted((run.directory / "samples").rglob("*.parquet")):
        if (name := file.relative_to(run.directory).as_posix()) not in known:
            yield f"{name}: not of this run"


def _task_claims(run: Run) -> Iterator[Claim]:
    for task in run.tasks:
        columns, scores = run.samples(task), run.scores(task)
        index = columns.get("index")
        yield f"{task}: samples", run.document["counts"][task], None if index is None else len(set(index.tolist()))
        nodes = _metric_nodes(run, task)
        for metric, said in run.document["report"][task].items():
            is_primary = scores is not None and metric == run.primary(task)
            found = (
                float(scores.mean()) if is_primary and scores is not None else recompute(nodes.get(metric, {}), columns)
            )
            yield f"{task}.{metric}", said, found
        if scores is not None:
            said = run.document["standard_errors"][task].get(run.primary(task))
            found = standard_error_of_mean(scores, columns.get("group"))
            yield f"{task}.{run.primary(task)}: standard error", said, found


def _metric_nodes(run: Run, task: str) -> Mapping[str, Mapping[str, Any]]:
    """What the configuration says the metrics are."""
    return (run.task_nodes.get(task) or {}).get("metrics") or {}


def _aggregate_claims(run: Run) -> Iterator[Claim]:
    """Aggregates of the values in the report, and of those of its references."""
    results = {task: _result(run, task, metrics) for task, metrics in run.document["report"].items()}
    base, experts = (
        {task: _result(run, task, metrics) for task, metrics in run.document["references"][role].items()}
        for role in ("base", "experts")
    )
    found = aggregate(Report(results), References(base, experts), resamples=0).groups
    for group, named in run.document["aggregates"].items():
        for name, said in named.items():
            again = found.get(group, {}).get(name)
            yield f"{group}.{name}", said["value"], None if again is None else again.value
            if group == "mean":
                error = None if again is None else again.standard_error
                yield f"{group}.{name}: standard error", said["standard_error"], error


def _result(run: Run, task: str, metrics: dict[str, float]) -> TaskResult:
    """The numbers of a model on a task; those of a reference count as if they had passed the comparison of the data."""
    document = run.document
    return TaskResult(
        metrics={name: math.nan if value is None else value for name, value in metrics.items()},
        standard_errors=document["standard_errors"][task],
        primary=run.primary(task),
        count=document["counts"][task],
        seconds=0.0,
        higher_is_better=document["higher_is_better"][task],
    )


def _agree(said: float | None, found: float) -> bool:
    return said is not None and abs(said - found) <= _TOLERANCE * max(1.0, abs(found))
