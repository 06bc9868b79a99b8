"""Drop a merge early that is surely worse than the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_eval.errors import ConfigError
from fusion_eval.racing.bounds import upper_bounds

if TYPE_CHECKING:
    from torch import nn

    from fusion_eval.engine import Runner
    from fusion_eval.tasks import Task

__all__ = ["Racing", "Scores", "Verdict", "require_scores"]


@dataclass(frozen=True)
class Scores:
    """What the best merge so far reached on one task.

    Args:
        metric: The task's primary metric.
        index: Shape `(n,)`: which samples were evaluated.
        score: Shape `(n,)`: values in [0, 1] whose mean is the primary metric, more of which is better.
    """

    metric: str
    index: npt.NDArray[np.integer[Any]]
    score: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Verdict:
    """How a race ended.

    Args:
        dropped: Whether the merge is worse than the one it was compared with, with the confidence asked for.
        samples: How many samples it was evaluated on before that was known, over all tasks.
        of: How many there are.
        behind: Mean over tasks of the difference to the other one, on these samples; below 0 it is worse.
        at_most: What that mean over all samples is at most, with the confidence asked for.
        confidence: That it is at most so, at any moment of the race.
    """

    dropped: bool
    samples: int
    of: int
    behind: float
    at_most: float
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


@dataclass(frozen=True)
class Racing:
    """Compares a merge with the best so far on more and more samples, in an order that is drawn once for all merges.

    What is compared is the mean over tasks of their primary metrics: each sample counts `1 / (tasks * samples of its
    task)`. The difference of two merges on the samples seen so far bounds that on all samples (`upper_bounds`); once
    it is below 0 the merge is dropped. The best merge of a sweep is compared once, with whatever was the best before
    it, and so is dropped with a probability of at most `error`, in draws of the order. A merge that is not dropped
    after a share `last` of the samples is evaluated on all, as if there had been no race.

    Args:
        error: The probability with which the best merge may be dropped, in (0, 1).
        first: The share of all samples after which is looked first; each further look is at twice as many.
        last: The share of all samples after which a merge has survived.
        seed: Of the order of the samples.

    Raises:
        ConfigError: a number is out of range.
    """

    error: float = 0.05
    first: float = 0.02
    last: float = 0.32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise ConfigError(f"racing.error: expected a probability above 0 and below 1, found {self.error!r}")
        if not 0 < self.first <= self.last <= 1:
            raise ConfigError(
                f"racing: expected 0 < first <= last <= 1, found first={self.first!r} and last={self.last!r}"
            )

    def run(self, tasks: Mapping[str, Task], model: nn.Module, runner: Runner, best: Mapping[str, Scores]) -> Verdict:
        """Race a model against the best so far.

        Args:
            tasks: Task name to task.
            model: The model under test.
            runner: Evaluates it.
            best: Task name to what the best merge so far reached, for every task.

        Raises:
            ConfigError: the primary metric of a task is no mean of values in [0, 1].
            FusionEvalError: from a task.
        """
        task_of, place = self._order(best)
        runner = replace(runner, bootstrap=0, progress=False)
        raced = {
            name: replace(tasks[name], metrics={scores.metric: tasks[name].metrics[scores.metric]})
            for name, scores in best.items()
        }
        weights = np.array([len(task_of) / len(best) / len(scores.index) for scores in best.values()])
        differences = np.empty(0)
        for seen in self.looks(len(task_of)):
            chunk = slice(len(differences), seen)
            found = np.empty(seen - len(differences))
            for number, (name, scores) in enumerate(best.items()):
                mine = np.flatnonzero(task_of[chunk] == number)
                in_data_order = mine[np.argsort(place[chunk][mine])]
                chosen = place[chunk][in_data_order]
                if len(mine):
                    result = runner.run(name, raced[name], model, indices=scores.index[chosen])
                    gained = require_scores(name, result.scores, result.higher_is_better) - scores.score[chosen]
                    found[in_data_order] = weights[number] * gained
            differences = np.concatenate([differences, found])
            bounds = upper_bounds(differences, len(task_of), -weights.max(), weights.max(), self.error)
            if bounds[-1] < 0:
                break
        return Verdict(
            dropped=bool(bounds[-1] < 0),
            samples=len(differences),
            of=len(task_of),
            behind=float(differences.mean()),
            at_most=float(bounds[-1]),
            confidence=1 - self.error,
        )

    def looks(self, total: int) -> list[int]:
        """After how many of `total` samples is looked.

        Example:
            >>> Racing(first=0.02, last=0.1).looks(1000)
            [20, 40, 80, 100]
        """
        counts, share = [], self.first
        while share < self.last:
            counts.append(max(1, round(share * total)))
            share *= 2
        return sorted({*counts, max(1, round(self.last * total))})

    def _order(self, best: Mapping[str, Scores]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Samples of all tasks in the order of the race: the number of the task, and the place among its samples."""
        counts = [len(scores.index) for scores in best.values()]
        order = np.random.default_rng(self.seed).permutation(sum(counts))
        task_of = np.repeat(np.arange(len(counts)), counts)
        place = np.concatenate([np.arange(count) for count in counts])
        return task_of[order], place[order]


def require_scores(
    task: str, scores: npt.NDArray[Any] | None, higher_is_better: bool = True
) -> npt.NDArray[np.floating[Any]]:
    """The scores of a task as floats, if a race can be run on them.

    Raises:
        ConfigError: they are no values in [0, 1], more of which is better.
    """
    if scores is None or not higher_is_better or scores.min() < 0 or scores.max() > 1:
        raise ConfigError(
            f"racing=on: the primary metric of task {task!r} is no mean of values in [0, 1] of which more is "
            "better, as the accuracy is: put one first among its metrics, or leave racing off"
        )
    return scores.astype(np.float64)
