"""95 % intervals of single numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import Groups, count_units

__all__ = ["Measured", "measure", "measure_mean", "normal_interval", "wilson_interval"]


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

    The interval of Wilson for the effective sample size, as in `measure`, for a mean plus or minus so many errors is
    too short where most answers are right. Where all of them are, or all wrong, so that the error is no guide, the size
    is that of the variance of such a mean, `T^2 / sum_t (1 / n_t)`.

    Args:
        value: The mean of T tasks.
        error: Its standard error.
        scores: Of each task, shape `(n_t,)`. Where some are not right or wrong, the interval is the normal one.

    Example:
        >>> measure_mean(1.0, 0.0, [np.ones(50), np.ones(50)])  # doctest: +ELLIPSIS
        Measured(value=1.0, standard_error=0.0, low=0.963..., high=1.0)
    """
    if error is None or not all(map(_are_right_or_wrong, scores)):
        return measure(value, error)
    even = len(scores) ** 2 / sum(1 / len(own) for own in scores)
    size = value * (1 - value) / error**2 if error > 0 else even
    return Measured(value, error, *wilson_interval(value, size))


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
