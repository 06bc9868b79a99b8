"""Order statistics: which value has so many smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from math import isqrt
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusion_eval.threads import for_each

__all__ = ["Rows", "at_rank_of_rows", "at_ranks", "windows"]

Piece = TypeVar("Piece")

Rows = Callable[[Piece], Iterable[Tensor]]
"""Reads, of each of some rows of values, those in a piece: float32 or float64, flat. Threads call it at once."""

_Values = npt.NDArray[Any]

_ELEMENTS_AT_ONCE = 2**15
_SELECTED_AT_ONCE = 2**17  # up to so many, nothing is faster than a selection among all
_MOST_WINDOWS = 2**12
_WIDTH = 2**5  # a window lies in one page of memory or two
_DEVIATIONS = 5  # of the rank of the wanted value in a sample: 1 in 2 million samples misses it


def at_ranks(values: Tensor, *ranks: int) -> list[float]:
    """The values at some places of the ascending order, exact, in O(d). NaN counts as the largest.

    Args:
        values: Shape `(d,)`, `d > 0`, of float32 or float64.
        ranks: From 0, the smallest, to `d - 1`.

    Example:
        >>> at_ranks(torch.tensor([3.0, 1.0, 2.0]), 0, 2)
        [1.0, 3.0]
    """
    pieces, sample = torch.split(values, _ELEMENTS_AT_ONCE), cache(lambda: [windows([values])])
    return [at_rank_of_rows(lambda piece: [piece], pieces, sample, len(values), rank)[0] for rank in ranks]


def at_rank_of_rows(
    rows: Rows[Piece], pieces: Sequence[Piece], sample: Callable[[], Sequence[Tensor]], count: int, rank: int
) -> list[float]:
    """The same of several rows of values, which are not in memory at once.

    A sample tells between which bounds the wanted value of a row lies. One pass then counts the values below them, and
    keeps those within, 1 % or so, among which it is selected. Should it not be there, it is selected among all.

    Args:
        rows: Reads the values.
        pieces: Of what, all together.
        sample: Takes some values of each row, as `windows` does.
        count: How many values a row has, from 1.
        rank: From 0, the smallest, to `count - 1`.
    """
    if count <= _SELECTED_AT_ONCE:
        return [_select(values, rank) for values in _everything(rows, pieces)]
    bounds = [_bounds(_array(taken), rank / count) for taken in sample()]
    below: list[list[int]] = [[] for _ in bounds]
    within: list[list[_Values]] = [[] for _ in bounds]

    def count_and_keep(piece: Piece) -> None:
        for row, values in enumerate(map(_array, rows(piece))):
            low, high = bounds[row]
            smaller = values < low
            below[row].append(int(np.count_nonzero(smaller)))
            within[row].append(values[(values <= high) > smaller])

    for_each(count_and_keep, pieces)
    found = []
    for row, candidates in enumerate(map(np.concatenate, within)):
        place = rank - sum(below[row])
        if 0 <= place < len(candidates):
            found.append(_select(candidates, place))
        else:
            found.append(_select(_everything(partial(_row, rows, row), pieces)[0], rank))
    return found


def windows(parts: Iterable[Tensor]) -> Tensor:
    """A sample of values: short runs of neighbours, evenly spread, as each takes reading one or two pages of memory.

    Args:
        parts: The values, one flat tensor after the other.

    Returns:
        Shape `(windows, width)`, float64.
    """
    parts = list(parts)
    count = sum(map(len, parts))
    step = max(_WIDTH, count // max(1, min(isqrt(count), _MOST_WINDOWS)))  # more take longer than they save
    found, skip = [], 0
    for part in parts:
        if len(part) >= skip + _WIDTH:
            found.append(part[skip:].unfold(0, _WIDTH, step).double())
        skip = (skip - len(part)) % step
    return torch.cat(found) if found else torch.empty(0, _WIDTH, dtype=torch.float64)


def _bounds(sample: _Values, share: float) -> tuple[np.float32, np.float32]:
    """What lies surely below and surely above the value that the given share of all values is smaller than.

    Neighbours may be alike. So the error of the share is estimated from how much it differs between a window and the
    next: that of a systematic sample, to which it does not matter that tensors are unlike (successive differences;
    Wolter 1984, "An investigation of some estimators of variance for systematic sampling").
    """
    values = np.sort(sample.astype(np.float32), axis=None)
    if not len(values):
        return np.float32(-np.inf), np.float32(np.inf)
    smaller = (sample < values[min(int(share * len(values)), len(values) - 1)]).sum(axis=1)
    margin = 1 + _DEVIATIONS * (float(np.square(np.diff(smaller)).sum()) / 2) ** 0.5
    low, high = int(share * len(values) - margin), int(share * len(values) + margin) + 1
    return (
        values[low] if low >= 0 else np.float32(-np.inf),
        values[high] if high < len(values) else np.float32(np.inf),
    )


def _row(rows: Rows[Piece], row: int, piece: Piece) -> list[Tensor]:
    return [values for place, values in enumerate(rows(piece)) if place == row]


def _everything(rows: Rows[Piece], pieces: Sequence[Piece]) -> list[_Values]:
    read = [[_array(values) for values in rows(piece)] for piece in pieces]
    return [np.concatenate(row) for row in zip(*read, strict=True)]


def _array(values: Tensor) -> _Values:
    return values.detach().cpu().numpy()


def _select(values: _Values, rank: int) -> float:
    return float(np.partition(values, rank)[rank])
