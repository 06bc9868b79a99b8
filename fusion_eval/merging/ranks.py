"""Order statistics: which value has so many smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Slices", "at_ranks", "at_ranks_of_slices"]

Slices = Callable[[int], Iterable[Tensor]]
"""Called with a step, goes through every step-th of some values, slice by slice: each of float32 or float64, flat."""

_Values = npt.NDArray[Any]

_ELEMENTS_AT_ONCE = 2**15
_SELECTED_AT_ONCE = 2**17  # up to so many, nothing is faster than a selection among all
_SAMPLED = 2**16
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
    return at_ranks_of_slices(lambda step: torch.split(values[::step], _ELEMENTS_AT_ONCE), len(values), *ranks)


def at_ranks_of_slices(slices: Slices, count: int, *ranks: int) -> list[float]:
    """The same of values that are not in memory at once.

    A sample tells between which bounds a wanted value lies. One pass then counts the values below them, and keeps those
    within, among which it is selected. Should it not be there, it is selected among all.

    Args:
        slices: The values.
        count: How many there are, from 1.
        ranks: From 0, the smallest, to `count - 1`.
    """
    if count <= _SELECTED_AT_ONCE:
        everything = _everything(slices)
        return [_select(everything, rank) for rank in ranks]
    sample = np.sort(_everything(slices, count // _SAMPLED).astype(np.float32))
    return [_between(slices, rank, *_bounds(sample, rank / count)) for rank in ranks]


def _bounds(sample: _Values, share: float) -> tuple[np.float32, np.float32]:
    """What lies surely below and surely above the value that the given share of all values is smaller than."""
    size = len(sample)
    margin = 1 + _DEVIATIONS * (size * share * (1 - share)) ** 0.5
    low, high = int(share * size - margin), int(share * size + margin) + 1
    return sample[low] if low >= 0 else np.float32(-np.inf), sample[high] if high < size else np.float32(np.inf)


def _between(slices: Slices, rank: int, low: np.float32, high: np.float32) -> float:
    smaller, within = 0, []
    for values in map(_array, slices(1)):
        smaller += np.count_nonzero(values < low)
        within.append(values[(values >= low) & (values <= high)])
    candidates = np.concatenate(within)
    if 0 <= rank - smaller < len(candidates):
        return _select(candidates, rank - smaller)
    return _select(_everything(slices), rank)


def _everything(slices: Slices, step: int = 1) -> _Values:
    return np.concatenate([_array(values) for values in slices(step)])


def _array(values: Tensor) -> _Values:
    return values.detach().cpu().numpy()


def _select(values: _Values, rank: int) -> float:
    return float(np.partition(values, rank)[rank])
