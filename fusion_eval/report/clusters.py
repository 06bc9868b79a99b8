"""Samples that are not independent: frames of a video, questions on one text. A group of them counts as one draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Groups", "count_units", "enlargement", "resampled_indices", "resampled_weights", "unit_totals"]

Groups = npt.NDArray[Any]
"""Shape `(n,)`: samples with equal entries belong together."""


def count_units(n: int, groups: Groups | None) -> int:
    """How many independent draws `n` samples are: the number of groups, or of samples where there are none.

    Example:
        >>> count_units(3, None), count_units(3, np.array(["a", "b", "a"]))
        (3, 2)
    """
    return n if groups is None else len(np.unique(groups))


def unit_totals(
    scores: npt.ArrayLike, groups: Groups | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum the scores of each independent draw: of each group, or of each sample where there are no groups.

    Args:
        scores: Shape `(n, ...)`, real or bool.
        groups: See `Groups`; None: every sample stands for itself.

    Returns:
        Totals, shape `(units, ...)`, and how many samples each is of, shape `(units,)`.

    Example:
        >>> unit_totals([1.0, 0.0, 1.0], np.array(["a", "b", "a"]))
        (array([2., 0.]), array([2., 1.]))
    """
    values = np.asarray(scores, dtype=np.float64)
    if groups is None:
        return values, np.ones(len(values))
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    totals = np.zeros((len(sizes), *values.shape[1:]))
    np.add.at(totals, codes, values)
    return totals, sizes.astype(np.float64)


def resampled_indices(
    n: int, groups: Groups | None, resamples: int, generator: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of resamples: as many units as there are, drawn with replacement, each with all of its samples.

    Example:
        >>> list(resampled_indices(3, np.array(["a", "b", "a"]), 1, np.random.default_rng(0)))
        [array([1, 1])]
    """
    if groups is None:
        yield from (generator.integers(n, size=n) for _ in range(resamples))
        return
    codes = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    for _ in range(resamples):
        yield np.concatenate([members[unit] for unit in generator.integers(len(members), size=len(members))])


def resampled_weights(
    n: int, groups: Groups | None, resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The same resamples, as how often each sample is in them: shape `(resamples, n)`.

    Example:
        >>> resampled_weights(3, np.array(["a", "b", "a"]), 1, np.random.default_rng(0))
        array([[0, 2, 0]])
    """
    drawn = resampled_indices(n, groups, resamples, generator)
    return np.stack([np.bincount(indices, minlength=n) for indices in drawn])


def enlargement(units: int) -> float:
    """What the spread of a bootstrap over `units` draws lacks: the root of `units / (units - 1)`.

    See Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 5.3.
    """
    return math.sqrt(units / max(1, units - 1))
