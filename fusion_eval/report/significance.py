"""Is the difference between two models real? Paired tests, intervals, and the price of asking more than once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fusion_eval.report.statistics import paired_bootstrap_means, standard_deviation

__all__ = ["Difference", "holm", "mcnemar_exact", "normal_interval", "paired_difference", "wilson_interval"]


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same samples.

    Args:
        value: Weighted sum of the differences of the tasks' mean scores.
        standard_error: In the same unit; None where it is undefined.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        p_value: Two-sided, of the hypothesis that there is no difference.
    """

    value: float
    standard_error: float | None
    low: float
    high: float
    p_value: float


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927), which stays in [0, 1] and covers as it should near both ends.

    Args:
        share: Successes over `n`, in [0, 1].
        n: Number of samples, at least one.
        level: Coverage.

    Example:
        >>> [round(end, 4) for end in wilson_interval(0.9, 10)]
        [0.5958, 0.9821]
    """
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def normal_interval(value: float, standard_error: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of an estimate whose error is close to normal: a mean over many samples.

    Example:
        >>> [round(end, 3) for end in normal_interval(0.5, 0.1)]
        [0.304, 0.696]
    """
    half = NormalDist().inv_cdf(0.5 + level / 2) * standard_error
    return value - half, value + half


def mcnemar_exact(gained: int, lost: int) -> float:
    """Exact two-sided test of whether two models are right equally often (McNemar 1947).

    Args:
        gained: Samples that only the second model has right.
        lost: Samples that only the first model has right.

    Returns:
        Probability that a fair coin thrown `gained + lost` times is at least as uneven.

    Example:
        >>> mcnemar_exact(1, 9)
        0.021484375
    """
    n, fewer = gained + lost, min(gained, lost)
    ways, term = 0, 1
    for k in range(fewer + 1):
        ways += term
        term = term * (n - k) // (k + 1)
    return min(1.0, ways / 2 ** (n - 1)) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): rejecting those below a level errs at all with that probability.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_difference(
    first: Mapping[str, npt.NDArray[np.float64]],
    second: Mapping[str, npt.NDArray[np.float64]],
    weights: Mapping[str, float],
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Compare two models on one or more tasks by a bootstrap of their differences, sample by sample.

    Samples are resampled within each task (stratified) and jointly for both models (paired), so that what is hard for
    both cancels. The p-value is the share of resamples, centred on no difference, that are at least as far off as the
    observed one, the observed one included (Davison and Hinkley 1997, section 4.4); the interval is of percentiles. The
    spread of n samples is enlarged by the root of n / (n - 1), which the bootstrap lacks (Efron and Tibshirani 1993).

    Args:
        first: Task name to scores of shape `(n,)`.
        second: The same tasks and samples, scored for the other model.
        weights: Task name to the weight of its mean score.
        resamples: Number of resamples; the smallest possible p-value is `1 / (resamples + 1)`.
        seed: Of the bootstrap.

    Returns:
        `first` minus `second`.

    Example:
        >>> right, wrong = np.ones(50), np.repeat([1.0, 0.0], 25)
        >>> found = paired_difference({"mnist": right}, {"mnist": wrong}, {"mnist": 1.0})
        >>> found.value, found.p_value
        (0.5, 0.0001)
    """
    generator = np.random.default_rng(seed)
    value, draws = 0.0, np.zeros(resamples)
    for task, weight in weights.items():
        difference = np.asarray(first[task], dtype=np.float64) - second[task]
        mean = float(difference.mean())
        spread = paired_bootstrap_means(difference[:, None], resamples, generator)[:, 0] - mean
        value += weight * mean
        draws += weight * (mean + spread * math.sqrt(len(difference) / max(1, len(difference) - 1)))
    low, high = np.quantile(draws, [0.025, 0.975])
    margin = 1e-12 * max(1.0, abs(value))  # a resample equal to the observed difference must not miss it by rounding
    extreme = int((np.abs(draws - value) >= abs(value) - margin).sum())
    return Difference(value, standard_deviation(draws), float(low), float(high), (1 + extreme) / (1 + resamples))
