"""Whom a merge races against: the best of the jobs that a sweep has finished so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_eval.errors import ConfigError
from fusion_eval.racing.race import Scores, require_scores
from fusion_eval.report.runs import Run, find_runs

__all__ = ["Opponent", "find_opponent"]

_COMPARABLE = ("taskpool", "split", "limit", "seed", "precision")
"""Keys of the config in which two jobs must agree, so that their samples are the same."""


@dataclass(frozen=True)
class Opponent:
    """The best job so far.

    Args:
        name: Of its directory.
        scores: Task name to what it reached.
        finished: How many jobs were evaluated to the end, it included.
    """

    name: str
    scores: Mapping[str, Scores]
    finished: int

    @property
    def mean(self) -> float:
        """Its mean over the tasks of their primary metrics."""
        return float(np.mean([scores.score.mean() for scores in self.scores.values()]))


def find_opponent(directory: Path, config: Mapping[str, Any]) -> Opponent | None:
    """The job with the highest mean over the tasks of their primary metrics.

    Args:
        directory: Of the job that races; the others lie beside it.
        config: Its resolved config.

    Returns:
        None where no job with the same tasks is complete yet.

    Raises:
        ConfigError: the primary metric of a task cannot be raced on.
        DataError: the samples of the best job cannot be read.
    """
    runs = [
        run
        for run in find_runs([directory.parent])[0]
        if run.status == "complete"
        and run.directory != directory.resolve()
        and all(run.config.get(key) == config.get(key) for key in _COMPARABLE)
    ]
    if not runs:
        return None
    return _read(max(runs, key=_mean), len(runs))


def _mean(run: Run) -> float:
    return float(np.mean([run.document["report"][task][run.primary(task)] for task in run.tasks]))


def _read(run: Run, finished: int) -> Opponent:
    scores = {}
    for task in run.tasks:
        found = require_scores(task, run.scores(task), run.document["higher_is_better"][task])
        scores[task] = Scores(run.primary(task), run.samples(task)["index"], found)
    if not scores:
        raise ConfigError(f"racing=on: {run.directory} has no per-sample scores")
    return Opponent(run.directory.name, scores, finished)
