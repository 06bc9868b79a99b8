"""The samples that merging changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_eval.report.flips import PATTERNS
from fusion_eval.report.page.trios import Trio

__all__ = ["Change", "changed_samples", "count_changed"]


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


def changed_samples(trios: dict[str, Trio], most: int = 240) -> list[Change]:
    """The samples that changed most, an equal number of each task.

    What the expert had right and the merged model has wrong comes first, the surest of its wrong answers at the top;
    then what else differs from expert or base.

    Args:
        trios: Task name to its samples.
        most: How many at most.
    """
    return [change for task, trio in trios.items() for change in _changes(task, trio, max(1, most // len(trios)))]


def count_changed(trios: dict[str, Trio]) -> int:
    """How many samples changed, those not shown included."""
    return sum(len(_changed(trio)) for trio in trios.values())


def _changes(task: str, trio: Trio, most: int) -> list[Change]:
    _, expert, merged = trio.scores.T
    columns = trio.samples["merged"]
    confidence = columns.get("confidence")
    sureness = np.zeros(len(merged)) if confidence is None else confidence.astype(np.float64)
    changed = _changed(trio)
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


def _changed(trio: Trio) -> npt.NDArray[np.intp]:
    """Rows in which the merged model's score is not that of both others."""
    base, expert, merged = trio.scores.T
    return np.flatnonzero((merged != expert) | (merged != base))


def _what(trio: Trio, row: int) -> str:
    base, expert, merged = trio.scores[row].tolist()
    if trio.binary:
        return PATTERNS[bool(base), bool(expert), bool(merged)]
    return f"{merged - expert:+.4g} against the expert, {merged - base:+.4g} against the base"


def _text(value: np.generic) -> str:
    number = value.item() if hasattr(value, "item") else value
    return f"{number:.4g}" if isinstance(number, float) else str(number)
