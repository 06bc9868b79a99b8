"""Is the difference between two models real? Paired tests, and the price of asking more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import Groups, enlargement, unit_totals
from fusion_eval.report.statistics import paired_bootstrap_means, standard_deviation

__all__ = ["Difference", "holm", "mcnemar_exact", "paired_difference", "sign_flip_test"]

_EXACT = 13
"""Up to so many differences, all 2^k ways to flip their signs are gone through."""

_CHUNK = 4_000_000
"""Counts held in memory at once (int64: 32 MB)."""


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same samples.

    Args:
        value: Weighted sum of the differences of the tasks' mean scores.
        standard_error: In the same unit; None where it is undefined.
        low: Lower end of the 95 % interval; None where it is undefined: fewer than two samples or groups of a task.
        high: Upper end of the 95 % interval; None where it is undefined.
        p_value: Two-sided, of the hypothesis that there is no difference.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    p_value: float


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


def sign_flip_test(differences: npt.ArrayLike, *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided test of whether two models are equally good, by the sums of each independent draw's differences.

    If they are, each difference might as well have had the other sign (Fisher's randomisation test). Where draws are
    single samples that are right or wrong this is the exact McNemar test; where they are groups of samples, it is what
    that test becomes, for it asks nothing of how the samples of a group depend on each other.

    Args:
        differences: Shape `(units,)`, a number for each sample or group: its part of the difference of the models.
        resamples: Number of random flips, where there are too many (over 13 differences) to go through all.
        seed: Of the random flips.

    Returns:
        Share of the flips that are at least as far from zero as what was observed; of random ones, with that included.

    Example:
        >>> sign_flip_test([2, 1, 1, 0, -1]), mcnemar_exact(gained=4, lost=1), sign_flip_test([1, 1, 1, 1, -1])
        (0.5, 0.375, 0.375)
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    observed = abs(float(values.sum())) - 1e-12 * max(1.0, float(np.abs(values).sum()))  # equal but for rounding
    if len(values) <= _EXACT:
        signs = 2 * (np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1) - 1
        return float((np.abs(signs @ values) >= observed).mean())
    generator = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    chunk, extreme = max(1, _CHUNK // len(sizes)), 0
    for start in range(0, resamples, chunk):
        positive = generator.binomial(counts, 0.5, size=(min(chunk, resamples - start), len(sizes)))
        extreme += int((np.abs((2 * positive - counts) @ sizes) >= observed).sum())
    return (1 + extreme) / (1 + resamples)


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
    groups: Mapping[str, Groups] | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Compare two models on one or more tasks by a bootstrap of their differences, sample by sample.

    Samples are resampled within each task (stratified) and jointly for both models (paired), so that what is hard for
    both cancels. The p-value is the share of resamples, centred on no difference, that are at least as far off as the
    observed one, the observed one included (Davison and Hinkley 1997, section 4.4); the interval is of percentiles. The
    spread of n samples is enlarged by the root of n / (n - 1), which the bootstrap lacks (Efron and Tibshirani 1993).

    Where the samples of a task come in groups, whole groups are resampled, and the p-value is that of `sign_flip_test`
    over groups: a bootstrap of few groups calls too many differences real. So does one of few samples on which the
    models differ (at the extreme, resamples of one sample do not differ at all), and the test is the same up to 13.

    Args:
        first: Task name to scores of shape `(n,)`, finite.
        second: The same tasks and samples, scored for the other model.
        weights: Task name to the weight of its mean score.
        groups: Task name to shape `(n,)`, for tasks of whose samples those with equal entries belong together.
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
    groups = groups or {}
    value, draws, parts = 0.0, np.zeros(resamples), []
    for task, weight in weights.items():
        difference = np.asarray(first[task], dtype=np.float64) - second[task]
        mean = float(difference.mean())
        totals, _ = unit_totals(difference, groups.get(task))
        spread = paired_bootstrap_means(difference[:, None], resamples, generator, groups.get(task))[:, 0] - mean
        value += weight * mean
        draws += weight * (mean + spread * enlargement(len(totals)))
        parts.append(weight * totals / len(difference))
    error: float | None = None
    low: float | None = None
    high: float | None = None
    if all(len(part) > 1 for part in parts):
        error = standard_deviation(draws)
        low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    units = np.concatenate(parts)
    if groups or np.count_nonzero(units) <= _EXACT:
        return Difference(value, error, low, high, sign_flip_test(units, resamples=resamples, seed=seed))
    margin = 1e-12 * max(1.0, abs(value))  # a resample equal to the observed difference must not miss it by rounding
    extreme = int((np.abs(draws - value) >= abs(value) - margin).sum())
    return Difference(value, error, low, high, (1 + extreme) / (1 + resamples))
