"""Standard errors: of a mean in closed form, of everything else by a seeded bootstrap over the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Estimate",
    "bootstrap_standard_error",
    "paired_bootstrap_means",
    "standard_deviation",
    "standard_error_of_mean",
]

_CHUNK = 4_000_000
"""Multinomial counts held in memory at once (int64: 32 MB)."""


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Args:
        value: The number.
        standard_error: Its standard error in the same unit; None where it is undefined or unknown.
        task: The task it was found on, where it is that of one task picked among many.
    """

    value: float
    standard_error: float | None = None
    task: str | None = None


def standard_error_of_mean(values: npt.ArrayLike) -> float | None:
    """Standard error of the mean of independent samples: the standard deviation (n - 1) over the root of n.

    Args:
        values: Shape `(n,)`, real or bool.

    Returns:
        The error in the unit of the values; None where it is undefined: fewer than two samples, or one is not finite.

    Example:
        >>> standard_error_of_mean([1.0, 0.0, 1.0, 0.0, 1.0])
        0.24494897427831783
    """
    samples = np.asarray(values, dtype=np.float64)
    deviation = standard_deviation(samples)
    return None if deviation is None else deviation / math.sqrt(len(samples))


def standard_deviation(values: npt.NDArray[np.float64]) -> float | None:
    """Standard deviation (n - 1) of shape `(n,)`; None where n is below two, or a value is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(values.std(ddof=1))


def bootstrap_standard_error(
    statistic: Callable[[npt.NDArray[np.int64]], float], n: int, resamples: int = 200, seed: int = 0
) -> float | None:
    """Standard error of any statistic of `n` samples by the bootstrap (Efron 1979).

    Args:
        statistic: Takes the indices of the samples to use, int64 of shape `(n,)` with repeats, and returns the
            statistic over them.
        n: Number of samples.
        resamples: How often to resample; the relative error of the result is about `1 / sqrt(2 * resamples)`.
        seed: Of the generator; the same seed gives the same result.

    Returns:
        The error in the unit of the statistic; None for fewer than two samples or resamples, or where a resample has no
        finite value.

    Example:
        >>> heights = np.array([1.6, 1.7, 1.8, 1.9])
        >>> error = bootstrap_standard_error(lambda indices: float(np.median(heights[indices])), n=4)
        >>> 0.05 < error < 0.1
        True
    """
    if n < 2:
        return None
    generator = np.random.default_rng(seed)
    replicates = [statistic(generator.integers(n, size=n)) for _ in range(resamples)]
    return standard_deviation(np.array(replicates, dtype=np.float64))


def paired_bootstrap_means(
    scores: npt.NDArray[Any], resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of several models on the same resampled samples, so that what the models have in common cancels.

    A resample of n rows is a multinomial count of the *distinct* rows: the same distribution as drawing n rows with
    replacement, at a cost of a few numbers a resample where the scores are right or wrong.

    Args:
        scores: Shape `(n, models)`, real or bool: a row a sample.
        resamples: Number of replicates.
        generator: Source of randomness.

    Returns:
        Shape `(resamples, models)`: each model's mean score in each resample.

    Example:
        >>> scores = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])
        >>> paired_bootstrap_means(scores, 3, np.random.default_rng(0)).shape
        (3, 2)
    """
    n = len(scores)
    rows, counts = np.unique(np.asarray(scores, dtype=np.float64), axis=0, return_counts=True)
    chunk = max(1, _CHUNK // len(rows))
    return np.concatenate(
        [
            generator.multinomial(n, counts / n, size=min(chunk, resamples - start)) @ rows / n
            for start in range(0, resamples, chunk)
        ]
    )
