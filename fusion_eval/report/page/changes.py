"""The samples that merging changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_eval.report.flips import PATTERNS
from fusion_eval.report.page.trios import Trio

__all__ = ["Change", "changed_samples", "count_changed"]


_LONGEST = 160
"""Characters of an answer: enough to see what it is."""


@dataclass(frozen=True)
class Change:
    """A sample on which the merged model does better or worse than its expert or the base.

    Args:
        task: Its name.
        index: Of the sample in the data set.
        target: What is right; empty where the task has no single right answer.
        answers: Of base, expert and merged model: predictions, else scores.
        right: Whether those are right; None where answers are better or worse.
        confidence: Of the merged model in its answer; None where unknown.
        what: What happened.
        lost: Whether the merged model does worse than the expert.
    """

    task: str
    index: int
    target: str
    answers: tuple[str, ...]
    right: tuple[bool, ...] | None
    confidence: float | None
    what: str
    lost: bool


def changed_samples(trios: dict[str, Trio], most: int = 240) -> list[Change]:
    """The samples that changed most, an equal number of each task.

    What the merged model does worse than the expert comes first, task by task, the surest of its wrong answers at the
    top; then, again task by task, what else differs from expert or base.

    Args:
        trios: Task name to its samples.
        most: How many at most.
    """
    found = [change for task, trio in trios.items() for change in _changes(task, trio, max(1, most // len(trios)))]
    return sorted(found, key=lambda change: not change.lost)


def count_changed(trios: dict[str, Trio]) -> int:
    """How many samples changed, those not shown included."""
    return sum(len(_changed(trio)) for trio in trios.values())


def _changes(task: str, trio: Trio, most: int) -> list[Change]:
    _, expert, merged = trio.scores.T
    columns = trio.samples["merged"]
    confidence = columns.get("confidence")
    sureness = np.zeros(len(merged)) if confidence is None else confidence.astype(np.float64)
    gain = (merged - expert) if trio.higher_is_better else (expert - merged)
    rows = _changed(trio)
    keys = (gain >= 0, -np.abs(gain), -sureness, columns["index"])  # the first decides first
    order = np.lexsort([key[rows] for key in reversed(keys)])
    shown = "prediction" if all("prediction" in own for own in trio.samples.values()) else "score"
    return [
        Change(
            task=task,
            index=int(columns["index"][row]),
            target=_text(columns["target"][row]) if "target" in columns else "",
            answers=tuple(_text(own[shown][row]) for own in trio.samples.values()),
            right=tuple(map(bool, trio.scores[row])) if trio.binary else None,
            confidence=None if confidence is None else float(confidence[row]),
            what=_what(trio, row),
            lost=bool(gain[row] < 0),
        )
        for row in rows[order][:most].tolist()
    ]


def _changed(trio: Trio) -> npt.NDArray[np.intp]:
    """Rows in which the merged model's score is not that of both others."""
    base, expert, merged = trio.scores.T
    return np.flatnonzero((merged != expert) | (merged != base))


def _what(trio: Trio, row: int) -> str:
    base, expert, merged = trio.scores[row].tolist()
    if trio.binary:
        return PATTERNS[bool(base), bool(expert), bool(merged)]
    return f"{merged - expert:+.4g} against the expert, {merged - base:+.4g} against the base"


def _text(value: object) -> str:
    """A label or a number; of a long text, its beginning."""
    plain = value.item() if isinstance(value, np.generic) else value
    text = f"{plain:.4g}" if isinstance(plain, float) else str(plain)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
