"""What merging did to single samples, from the files a run left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_eval.errors import DataError
from fusion_eval.report.flips import PATTERNS
from fusion_eval.report.runs import Run

__all__ = ["Change", "Trio", "changed_samples", "flip_counts", "read_trios"]

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Trio:
    """One task as base, expert and merged model answered it, sample by sample.

    Args:
        samples: "base", "expert" and "merged" to columns of shape `(n,)`, "score" among them.
    """

    samples: dict[str, Columns]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Shape `(n, 3)`."""
        return np.stack([columns["score"].astype(np.float64) for columns in self.samples.values()], axis=1)

    @property
    def binary(self) -> bool:
        """Whether every score is right or wrong."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())


@dataclass(frozen=True)
class Change:
    """A sample on which the merged model does better or worse than its expert or the base.

    Args:
        task: Its name.
        index: Of the sample in the data set.
        target: What is right; empty where the task has no single right answer.
        answers: Of base, expert and merged model: predictions, else scores.
        confidence: Of the merged model in its answer; None where unknown.
        what: What happened.
    """

    task: str
    index: int
    target: str
    answers: tuple[str, str, str]
    confidence: float | None
    what: str


def read_trios(run: Run) -> dict[str, Trio]:
    """Read every task of which base, expert and merged model left scores of the same samples."""
    trios = {}
    for task in run.tasks:
        try:
            roles = {"base": "base", "expert": "experts", "merged": ""}
            samples = {name: run.samples(task, role) for name, role in roles.items()}
        except DataError:  # the leaderboard warns of it, `fusion-eval-report verify` fails
            continue
        indices = [columns.get("index") for columns in samples.values()]
        alike = all(index is not None and np.array_equal(index, indices[0]) for index in indices)
        if alike and all("score" in columns for columns in samples.values()):
            trios[task] = Trio(samples)
    return trios


def flip_counts(trio: Trio) -> tuple[int, ...]:
    """How many samples follow each of the `PATTERNS`, in their order."""
    return tuple(int((trio.scores == np.array(pattern)).all(axis=1).sum()) for pattern in PATTERNS)


def changed_samples(trios: dict[str, Trio], most: int = 240) -> list[Change]:
    """The samples that changed most, an equal number of each task.

    What the expert had right and the merged model has wrong comes first, the surest of its wrong answers at the top;
    then what else differs from expert or base.

    Args:
        trios: Task name to its samples.
        most: How many at most.
    """
    return [change for task, trio in trios.items() for change in _changes(task, trio, max(1, most // len(trios)))]


def _changes(task: str, trio: Trio, most: int) -> list[Change]:
    base, expert, merged = trio.scores.T
    columns = trio.samples["merged"]
    confidence = columns.get("confidence")
    sureness = np.zeros(len(merged)) if confidence is None else confidence.astype(np.float64)
    changed = np.flatnonzero((merged != expert) | (merged != base))
    order = np.lexsort(
        [columns["index"][changed], -sureness[changed], -np.abs(merged - expert)[changed], (merged >= expert)[changed]]
    )  # the last key decides first
    shown = "prediction" if all("prediction" in own for own in trio.samples.values()) else "score"
    changes = []
    for row in changed[order][:most].tolist():
        answers = [_text(own[shown][row]) for own in trio.samples.values()]
        changes.append(
            Change(
                task=task,
                index=int(columns["index"][row]),
                target=_text(columns["target"][row]) if "target" in columns else "",
                answers=(answers[0], answers[1], answers[2]),
                confidence=None if confidence is None else float(confidence[row]),
                what=_what(trio, row),
            )
        )
    return changes


def _what(trio: Trio, row: int) -> str:
    base, expert, merged = trio.scores[row].tolist()
    if trio.binary:
        return PATTERNS[bool(base), bool(expert), bool(merged)]
    return f"{merged - expert:+.4g} against the expert, {merged - base:+.4g} against the base"


def _text(value: np.generic) -> str:
    number = value.item() if hasattr(value, "item") else value
    return f"{number:.4g}" if isinstance(number, float) else str(number)
