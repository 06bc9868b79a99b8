"""Drop a merge early that is surely worse than the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_eval.engine.sample_memory import SampleMemory
from fusion_eval.errors import ConfigError
from fusion_eval.racing.bounds import draw_order, evidence, upper_bound

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
        behind: Mean over tasks of the mean difference to the other one, on these samples; below 0 it is worse.
        at_most: What that mean over all samples is at most, at any moment of the race.
        confidence: Of all drops of the sweep together, so far as they could cost it its best merge.
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
    task)`. Once betting on the merge being worse has won so much that chance is no explanation (`evidence`), it is
    dropped. What it was evaluated on is not evaluated again if it survives, so a race costs few forwards in vain: the
    looks.

    The best merge of a sweep is dropped with a probability of at most `error`, in draws of the order, if jobs run one
    after the other. Take the merges each of which is better than all before it. As long as none of them is dropped,
    each races against the one before it, which no draw decides; so it is enough that the levels of these races sum to
    `error` at most. After `k` merges have been evaluated to the end the level is `error / (k (k + 1))`, and between two
    of these merges `k` grows.

    Args:
        error: The probability with which the best merge of a sweep may be dropped, in (0, 1).
        first: The share of all samples after which is looked first, if every task has some among them.
        last: The share of all samples after which a merge has survived.
        growth: At how many times as many samples is looked next, above 1.
        seed: Of the order of the samples.

    Raises:
        ConfigError: a number is out of range.
    """

    error: float = 0.05
    first: float = 0.005
    last: float = 0.9
    growth: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise ConfigError(f"racing.error: expected a probability above 0 and below 1, found {self.error!r}")
        if not 0 < self.first <= self.last <= 1:
            raise ConfigError(
                f"racing: expected 0 < first <= last <= 1, found first={self.first!r} and last={self.last!r}"
            )
        if not self.growth > 1:
            raise ConfigError(f"racing.growth: expected a number above 1, found {self.growth!r}")

    def run(
        self,
        tasks: Mapping[str, Task],
        model: nn.Module,
        runner: Runner,
        best: Mapping[str, Scores],
        finished: int = 1,
        memory: SampleMemory | None = None,
    ) -> Verdict:
        """Race a model against the best so far.

        Args:
            tasks: Task name to task.
            model: The model under test.
            runner: Evaluates it.
            best: Task name to what the best merge so far reached, for every task.
            finished: How many merges were evaluated to the end before.
            memory: Keeps what is found out about the samples; None: nothing does.

        Raises:
            ConfigError: the primary metric of a task is no mean of values in [0, 1].
            FusionEvalError: from a task.
        """
        counts = [len(scores.index) for scores in best.values()]
        task_of = np.repeat(np.arange(len(counts)), counts)
        place = np.concatenate([np.arange(count) for count in counts])
        weights = (1 / (len(counts) * np.array(counts)))[task_of]
        order = draw_order(weights, self.seed)
        level = self.level(finished)
        memory = SampleMemory() if memory is None else memory
        runner = replace(runner, bootstrap=0, progress=False)
        raced = {
            name: replace(tasks[name], metrics={scores.metric: tasks[name].metrics[scores.metric]})
            for name, scores in best.items()
        }
        enough = [np.flatnonzero(task_of[order] == number)[: runner.processes][-1] for number in range(len(counts))]
        looks = [count for count in self.looks(len(order)) if count > max(enough)]  # else a task cannot be run
        differences, seen = np.zeros(len(order)), np.zeros(len(order), dtype=bool)
        for count in looks or [len(order)]:
            new = set(task_of[order[:count]][~seen[order[:count]]])
            seen[order[:count]] = True
            for number, (name, scores) in enumerate(best.items()):
                mine = np.flatnonzero(seen & (task_of == number))
                chosen = place[mine]
                if number in new:
                    result = runner.run(name, raced[name], model, indices=scores.index[chosen], memory=memory)
                    gained = require_scores(name, result.scores, result.higher_is_better)
                    differences[mine] = gained - scores.score[chosen]
            found, of_found = differences[order[:count]], weights[order[:count]]
            dropped = bool(evidence(found, of_found).max() >= np.log(1 / level))
            if dropped:
                break
        means = [differences[seen & (task_of == number)].mean() for number in range(len(counts))]
        return Verdict(
            dropped=dropped,
            samples=count,
            of=len(order),
            behind=float(np.mean(means)),
            at_most=upper_bound(found, of_found, level),
            confidence=1 - self.error,
        )

    def level(self, finished: int) -> float:
        """The error of one race, after so many merges have been evaluated to the end; those of all sum to `error`.

        Example:
            >>> Racing(error=0.06).level(1), Racing(error=0.06).level(2)
            (0.03, 0.01)
        """
        return self.error / (finished * (finished + 1))

    def looks(self, total: int) -> list[int]:
        """After how many of `total` samples is looked.

        Example:
            >>> Racing(first=0.02, last=0.1, growth=2).looks(1000)
            [20, 40, 80, 100]
        """
        counts, share = [], self.first
        while share < self.last:
            counts.append(max(1, round(share * total)))
            share *= self.growth
        return sorted({*counts, max(1, round(self.last * total))})


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
