"""Cells of the big table: a number, its interval as a thin bar, and how far it is from the expert as a colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Leaderboard

__all__ = ["Cell", "column", "losses"]

NOTHING = Measured(None)


@dataclass(frozen=True)
class Cell:
    """What is drawn.

    Args:
        text: The number.
        told: The number with its error and interval, for who points at it.
        start: Where the bar starts, in percent of the column.
        width: Of the bar, in percent of the column; None where no interval is known.
        at: Where the number itself is, in percent of the bar.
        best: Whether no run of the column is better.
        loss: Share of the colour: 1 for the largest distance below the expert on the page, below 0 for above it.
    """

    text: str
    told: str
    start: float = 0.0
    width: float | None = None
    at: float = 0.0
    best: bool = False
    loss: float = 0.0


def column(
    measured: Sequence[Measured], *, ranked: int, lower: bool, losses: Sequence[float | None] | None = None
) -> list[Cell]:
    """Lay out a column, so that its bars share one scale.

    Args:
        measured: From top to bottom.
        ranked: How many of them are runs; the others, references, are never the best.
        lower: Whether less is better.
        losses: As `losses` returns them, for each run.
    """
    ends = [end for one in measured for end in (one.low, one.high) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)
    values = [one.value for one in measured[:ranked] if one.value is not None]
    best = (min if lower else max)(values, default=None)
    shades = [*(losses or []), *[None] * len(measured)]
    return [
        _cell(one, low, high, best=row < ranked and one.value is not None and one.value == best, loss=loss or 0.0)
        for row, (one, loss) in enumerate(zip(measured, shades, strict=False))
    ]


def losses(board: Leaderboard, experts: Mapping[str, float]) -> dict[str, list[float | None]]:
    """How far each run is below the expert of each task, relative to it; scaled so that the largest distance is 1.

    Args:
        board: The leaderboard.
        experts: Task name to the primary metric of its expert; the best run stands in for an expert that is missing.

    Returns:
        Task name to a number for each run, best first; below zero where it is better than the expert.
    """
    distances: dict[str, list[float | None]] = {}
    for task in board.tasks:
        values = [entry.tasks.get(task, NOTHING).value for entry in board.entries]
        known = [value for value in values if value is not None]
        ideal = experts.get(task, (min if task in board.lower else max)(known, default=0.0))
        unit = (-1.0 if task in board.lower else 1.0) * (abs(ideal) or 1.0)
        distances[task] = [None if value is None else (ideal - value) / unit for value in values]
    largest = max((abs(one) for row in distances.values() for one in row if one is not None), default=0.0) or 1.0
    return {task: [None if one is None else one / largest for one in row] for task, row in distances.items()}


def _cell(one: Measured, low: float, high: float, *, best: bool, loss: float) -> Cell:
    if one.value is None:
        return Cell("-", "not measured")
    told = f"{one.value:.6g}" + ("" if one.standard_error is None else f" ± {one.standard_error:.2g}")
    if one.low is None or one.high is None:
        return Cell(f"{one.value:.4f}", told, best=best, loss=round(loss, 2))
    span, width = high - low or 1.0, one.high - one.low or 1.0
    return Cell(
        f"{one.value:.4f}",
        f"{told}, 95 %: {one.low:.4f} to {one.high:.4f}",
        start=round(100 * (one.low - low) / span, 1),
        width=round(100 * (one.high - one.low) / span, 1),
        at=round(100 * (one.value - one.low) / width, 1),
        best=best,
        loss=round(loss, 2),
    )
