"""Standard errors: of a mean in closed form, of everything else by a seeded bootstrap over samples or groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import (
    Groups,
    count_units,
    enlargement,
    resampled_indices,
    resampled_weights,
    unit_totals,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Estimate",
    "bootstrap_standard_error",
    "paired_bootstrap_means",
    "standard_deviation",
    "standard_error_of_mean",
    "weighted_bootstrap_errors",
]

_CHUNK = 4_000_000
"""Counts of resampled samples held in memory at once (int64: 32 MB)."""


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


def standard_error_of_mean(values: npt.ArrayLike, groups: Groups | None = None) -> float | None:
    """Standard error of a mean: of independent samples the standard deviation (n - 1) over the root of n.

    Of samples that come in G groups, the cluster-robust one (Liang and Zeger 1986) with the usual correction for few
    groups: the root of `G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2`, over n. The same where every group is one
    sample.

    Args:
        values: Shape `(n,)`, real or bool.
        groups: Shape `(n,)`: samples with equal entries belong together; None: all are independent.

    Returns:
        The error in the unit of the values; None where it is undefined: fewer than two samples or groups, or a value
        is not finite.

    Example:
        >>> standard_error_of_mean([1.0, 0.0, 1.0, 0.0, 1.0])
        0.24494897427831783
        >>> standard_error_of_mean([1.0, 1.0, 0.0, 0.0], np.array(["a", "a", "b", "b"]))
        0.5
    """
    samples = np.asarray(values, dtype=np.float64)
    if groups is None:
        deviation = standard_deviation(samples)
        return None if deviation is None else deviation / math.sqrt(len(samples))
    residuals, _ = unit_totals(samples - samples.mean(), groups)
    if len(residuals) < 2 or not np.isfinite(samples).all():
        return None
    few = len(residuals) / (len(residuals) - 1)
    return math.sqrt(few * float(residuals @ residuals)) / len(samples)


def standard_deviation(values: npt.NDArray[np.float64]) -> float | None:
    """Standard deviation (n - 1) of shape `(n,)`; None where n is below two, or a value is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(values.std(ddof=1))


def bootstrap_standard_error(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    n: int,
    resamples: int = 200,
    seed: int = 0,
    groups: Groups | None = None,
) -> float | None:
    """Standard error of any statistic of `n` samples by the bootstrap (Efron 1979).

    Samples that come in groups are resampled by whole groups (Davison and Hinkley 1997, section 3.8), and the spread of
    G groups is enlarged by the root of G / (G - 1), which the bootstrap lacks.

    Args:
        statistic: Takes the indices of the samples to use, int64 of shape `(n,)` with repeats, and returns the
            statistic over them. Groups of different sizes give it more or fewer than n.
        n: Number of samples.
        resamples: How often to resample; the relative error of the result is about `1 / sqrt(2 * resamples)`.
        seed: Of the generator; the same seed gives the same result.
        groups: Shape `(n,)`: samples with equal entries belong together; None: all are independent.

    Returns:
        The error in the unit of the statistic; None for fewer than two samples, groups or resamples, or where a
        resample has no finite value.

    Example:
        >>> heights = np.array([1.6, 1.7, 1.8, 1.9])
        >>> error = bootstrap_standard_error(lambda indices: float(np.median(heights[indices])), n=4)
        >>> 0.05 < error < 0.1
        True
    """
    if count_units(n, groups) < 2:
        return None
    generator = np.random.default_rng(seed)
    replicates = [statistic(indices) for indices in resampled_indices(n, groups, resamples, generator)]
    return _spread(replicates, n, groups)


def weighted_bootstrap_errors(
    statistics: Mapping[str, Callable[[npt.NDArray[np.int64]], npt.ArrayLike]],
    n: int,
    resamples: int = 200,
    seed: int = 0,
    groups: Groups | None = None,
) -> dict[str, float | None]:
    """Standard errors of statistics that many resamples are handed to at once: see `bootstrap_standard_error`.

    Args:
        statistics: Each takes how often each sample counts in each resample, int64 of shape `(r, n)`, and returns its
            value for each, shape `(r,)`.
        n: As there.
        resamples: As there.
        seed: As there: the resamples are the same ones, for all statistics.
        groups: As there.

    Returns:
        Name to error; none of them where nothing can be resampled.

    Example:
        >>> heights = np.array([1.6, 1.7, 1.8, 1.9])
        >>> errors = weighted_bootstrap_errors({"mean": lambda weights: weights @ heights / 4}, n=4)
        >>> 0.05 < errors["mean"] < 0.1
        True
    """
    if not statistics or count_units(n, groups) < 2:
        return dict.fromkeys(statistics)
    generator = np.random.default_rng(seed)
    replicates: dict[str, list[float]] = {name: [] for name in statistics}
    chunk = max(1, _CHUNK // n)
    for start in range(0, resamples, chunk):
        weights = resampled_weights(n, groups, min(chunk, resamples - start), generator)
        for name, statistic in statistics.items():
            replicates[name].extend(np.asarray(statistic(weights)))
    return {name: _spread(values, n, groups) for name, values in replicates.items()}


def _spread(replicates: list[float], n: int, groups: Groups | None) -> float | None:
    """What a bootstrap makes of the values of a statistic on its resamples."""
    deviation = standard_deviation(np.array(replicates, dtype=np.float64))
    return None if deviation is None else deviation * enlargement(count_units(n, groups))


def paired_bootstrap_means(
    scores: npt.NDArray[Any], resamples: int, generator: np.random.Generator, groups: Groups | None = None
) -> npt.NDArray[np.float64]:
    """Means of several models on the same resampled samples, so that what the models have in common cancels.

    A resample of n rows is a multinomial count of the *distinct* rows: the same distribution as drawing n rows with
    replacement, at a cost of a few numbers a resample where the scores are right or wrong. Samples that come in groups
    are resampled by whole groups.

    Args:
        scores: Shape `(n, models)`, real or bool: a row a sample.
        resamples: Number of replicates.
        generator: Source of randomness.
        groups: Shape `(n,)`: samples with equal entries belong together; None: all are independent.

    Returns:
        Shape `(resamples, models)`: each model's mean score in each resample.

    Example:
        >>> scores = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])
        >>> paired_bootstrap_means(scores, 3, np.random.default_rng(0)).shape
        (3, 2)
    """
    units = np.column_stack(unit_totals(scores, groups))
    rows, counts = np.unique(units, axis=0, return_counts=True)
    chunk = max(1, _CHUNK // len(rows))
    drawn = [
        generator.multinomial(len(units), counts / len(units), size=min(chunk, resamples - start)) @ rows
        for start in range(0, resamples, chunk)
    ]
    totals = np.concatenate(drawn)
    means: npt.NDArray[np.float64] = totals[:, :-1] / totals[:, -1:]
    return means
