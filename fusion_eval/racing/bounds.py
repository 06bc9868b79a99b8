"""How good a mean can still turn out, of which a growing part is known: valid at every moment at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["draw_order", "evidence", "upper_bound"]

_STAKES = np.array([0.06, 0.12, 0.25, 0.5, 0.9])
"""Shares that are bet, each of a fifth of the capital: small ones find small differences, large ones are fast."""

_ROUNDING = 1e-9
_PRECISION = 1e-5

Values = npt.NDArray[np.floating]


def draw_order(weights: Values, seed: int) -> npt.NDArray[np.intp]:
    """A random order of all samples: of those left, each comes next with a probability in proportion to its weight.

    So samples of small tasks, which weigh more, come early. Sorting by exponential variables over the weights is such a
    draw (Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003).

    Args:
        weights: Shape `(n,)`, positive.
        seed: Of the draw.

    Returns:
        Shape `(n,)`.

    Example:
        >>> draw_order(np.array([0.2, 0.2, 0.6]), seed=0)
        array([2, 0, 1])
    """
    return np.argsort(np.random.default_rng(seed).exponential(size=len(weights)) / weights)


def evidence(differences: Values, weights: Values, mean: float = 0.0) -> Values:
    """Logarithm of the capital won by betting that the weighted mean of all samples is below `mean`.

    Had the samples left a weighted mean of `m` at least, then `1 - c + c (1 - d) / (1 - m)`, of the next difference `d`
    and a stake `c`, would be 1 at most in expectation: the wins multiply to a nonnegative supermartingale, and the
    average over several stakes is one (arXiv 2010.09686, section 4, and 5 for drawing without replacement; weighted,
    arXiv 2305.06884). By Ville's inequality it exceeds `1 / error` at any time with a probability of at most `error`,
    so one may look whenever one likes. What is left is known but for the mean of all.

    Args:
        differences: Shape `(n,)`, in [-1, 1]: the samples seen, in the order of `draw_order`.
        weights: Shape `(n,)`: of these samples; those of all samples sum to 1.
        mean: What the weighted mean of all may be, or more.

    Returns:
        Shape `(n,)`: after the first, the second, ... sample; infinite once such a mean cannot be reached any more.

    Example:
        >>> lost = evidence(np.full(20, -1.0), np.full(20, 0.001))
        >>> bool(lost[0] < np.log(20) < lost[-1])
        True
    """
    won = weights * differences
    left = np.cumsum(weights[::-1])[::-1] + max(0.0, 1 - weights.sum())  # before each draw, itself included
    needed = (mean - (np.cumsum(won) - won)) / left
    room = np.maximum(1 - needed, _ROUNDING)
    gains = np.log(1 - _STAKES[:, None] + _STAKES[:, None] * (1 - differences) / room)
    capital = np.logaddexp.reduce(np.cumsum(gains, axis=1), axis=0) - np.log(len(_STAKES))
    return np.where(np.maximum.accumulate(needed > 1 + _ROUNDING), np.inf, capital)


def upper_bound(differences: Values, weights: Values, error: float) -> float:
    """What the weighted mean of all samples is at most, though looked at after each of them.

    Args:
        differences: Shape `(n,)`, in [-1, 1]: the samples seen, in the order of `draw_order`.
        weights: Shape `(n,)`: of these samples; those of all samples sum to 1.
        error: The probability that the mean is above, at any moment.

    Returns:
        At most 0 if and only if `evidence` against 0 reached `log(1 / error)`; at most 1, and too high by 1e-5 at most.

    Example:
        >>> -1 < upper_bound(np.full(50, -1.0), np.full(50, 0.001), error=0.05) < 0
        True
    """

    def refuted(mean: float) -> bool:
        return bool(evidence(differences, weights, mean).max() >= np.log(1 / error))

    below, above = (-1.0, 0.0) if refuted(0.0) else (0.0, 1.0)
    while above - below > _PRECISION:
        middle = (below + above) / 2
        below, above = (below, middle) if refuted(middle) else (middle, above)
    return above
