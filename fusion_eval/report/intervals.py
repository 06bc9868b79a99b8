"""95 % intervals of single numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import Groups, count_units

__all__ = ["Measured", "measure", "measure_mean", "normal_interval", "score_interval", "wilson_interval"]


@dataclass(frozen=True)
class Measured:
    """A number with its standard error and the ends of its 95 % interval; None where unknown."""

    value: float | None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


def measure(
    value: float | None,
    error: float | None,
    scores: npt.NDArray[np.float64] | None = None,
    groups: Groups | None = None,
) -> Measured:
    """Add an interval: that of Wilson for a share of right answers, else that of the normal distribution.

    Where samples come in G groups, quantiles are those of Student's t with G - 1 degrees of freedom, and the interval
    of Wilson is that of the effective sample size `p (1 - p) / error^2` (Dean and Pagano 2015, Journal of Survey
    Statistics and Methodology 3, 484-503): the one of the true size would be too short, and one of a mean plus or minus
    so many errors fails near 0 and 1.

    Args:
        value: The number.
        error: Its standard error, which takes the groups into account.
        scores: Shape `(n,)`: what the number is the mean of, if it is one.
        groups: Of the samples, if they are grouped.
    """
    if value is None:
        return Measured(None)
    is_share = scores is not None and _are_right_or_wrong(scores)
    if scores is not None and is_share and groups is None:
        return Measured(value, error, *wilson_interval(value, len(scores)))
    if error is None:
        return Measured(value)
    if groups is None:
        return Measured(value, error, *normal_interval(value, error))
    units = count_units(len(groups), groups)
    if not is_share:
        return Measured(value, error, *normal_interval(value, error, freedom=units - 1))
    size = min(len(groups), value * (1 - value) / error**2) if error > 0 else units
    return Measured(value, error, *wilson_interval(value, size, freedom=units - 1))


def measure_mean(value: float, error: float | None, scores: Sequence[npt.NDArray[np.float64]]) -> Measured:
    """Add an interval to the unweighted mean of the shares of right answers on several tasks.

    Args:
        value: The mean of T tasks.
        error: Its standard error.
        scores: Of each task, shape `(n_t,)`. Where some are not right or wrong, the interval is the normal one, else
            that of `score_interval`.

    Example:
        >>> measure_mean(1.0, 0.0, [np.ones(50), np.ones(50)])  # doctest: +ELLIPSIS
        Measured(value=1.0, standard_error=0.0, low=0.963..., high=1.0)
    """
    if error is None or not all(map(_are_right_or_wrong, scores)):
        return measure(value, error)
    return Measured(value, error, *score_interval([float(own.mean()) for own in scores], list(map(len, scores))))


def score_interval(shares: Sequence[float], sizes: Sequence[int], level: float = 0.95) -> tuple[float, float]:
    """Interval of the unweighted mean of independent proportions, which of one proportion is that of Wilson.

    It holds every mean m that the score test does not refuse, so for which `(found mean - m)^2 <= z^2 V(m)` where `V`
    is the variance of the mean if the proportions are the likeliest ones whose mean is m: for two proportions Mee's
    (1984, Biometrics 40, 1175-1176), for more Martin Andres et al. (2011, Statistical Methods in Medical Research 20,
    369-387). The usual mean plus or minus so many errors is too short where most answers are right, all the more so
    where one task has few samples: 0.43 for shares of 0.98 of 30 and 10,000. What is put together from the intervals of
    the tasks (MOVER; Zou and Donner 2008) is right there and wrong where tasks are many: 0.86 for 20 tasks of 30.

    Args:
        shares: Successes over `n_t` of each task, in [0, 1].
        sizes: Numbers of samples `n_t`.
        level: Coverage.

    Example:
        >>> [round(end, 4) for end in score_interval([1.0, 0.98], [30, 10_000])]
        [0.9332, 0.9913]
    """
    z2 = _quantile(level, None) ** 2
    return _lowest(shares, sizes, z2), 1 - _lowest([1 - share for share in shares], sizes, z2)


def _lowest(shares: Sequence[float], sizes: Sequence[int], z2: float) -> float:
    """The lowest mean that the score test does not refuse.

    With a Lagrange multiplier `pull` for the mean, the likeliest proportion of a task solves
    `n (share - p) = pull / T p (1 - p)`. Summed over tasks: `found mean - mean = pull V`, so the test refuses from
    `pull (found mean - mean) = z^2` on, of which the left side grows with the pull.
    """
    found = math.fsum(shares) / len(shares)
    if found == 0:
        return 0.0

    def mean(pull: float) -> float:
        likeliest = (_drawn(share, n, pull / len(shares)) for share, n in zip(shares, sizes, strict=True))
        return math.fsum(likeliest) / len(shares)

    weak, strong = 0.0, 1.0
    while strong * (found - mean(strong)) < z2:
        weak, strong = strong, 2 * strong
    for _ in range(60):
        middle = (weak + strong) / 2
        weak, strong = (weak, middle) if middle * (found - mean(middle)) > z2 else (middle, strong)
    return mean(strong)


def _drawn(share: float, n: int, pull: float) -> float:
    """The root p in [0, 1] of `n (share - p) = pull p (1 - p)`."""
    return 2 * n * share / (n + pull + math.sqrt(max(0.0, (n + pull) ** 2 - 4 * pull * n * share)))


def wilson_interval(share: float, n: float, level: float = 0.95, freedom: int | None = None) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927), which stays in [0, 1] and covers as it should near both ends.

    Args:
        share: Successes over `n`, in [0, 1].
        n: Number of samples, above zero; an effective number need not be whole.
        level: Coverage.
        freedom: Degrees of freedom, where `n` is an estimate from so many groups less one.

    Example:
        >>> [round(end, 4) for end in wilson_interval(0.9, 10)]
        [0.5958, 0.9821]
    """
    z2 = _quantile(level, freedom) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def normal_interval(
    value: float, standard_error: float, level: float = 0.95, freedom: int | None = None
) -> tuple[float, float]:
    """Interval of an estimate whose error is close to normal: a mean over many samples.

    Args:
        value: The estimate.
        standard_error: In the same unit.
        level: Coverage.
        freedom: Degrees of freedom of the standard error, where it comes from so many groups less one.

    Example:
        >>> [round(end, 3) for end in normal_interval(0.5, 0.1)]
        [0.304, 0.696]
    """
    half = _quantile(level, freedom) * standard_error
    return value - half, value + half


def _are_right_or_wrong(scores: npt.NDArray[np.float64]) -> bool:
    return len(scores) > 0 and bool(np.isin(scores, (0.0, 1.0)).all())


def _quantile(level: float, freedom: int | None) -> float:
    """How many standard errors the interval reaches to either side."""
    if freedom is None:
        return NormalDist().inv_cdf(0.5 + level / 2)
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))
