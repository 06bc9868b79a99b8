"""How good a mean can still turn out, of which a growing part is known: valid at every moment at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["upper_bounds"]

_LARGEST_STEP = 0.5

Values = npt.NDArray[np.floating]


def upper_bounds(seen: Values, total: int, low: float, high: float, error: float) -> Values:
    """Upper bounds of the mean of all values, after the first, the second, ... that is seen of them.

    The values are drawn at random without replacement. With probability `1 - error` the mean of all is below every one
    of these bounds, so one may look after each value and stop whenever one likes.

    For values `y_i` in [0, 1], of which `m_i` is the mean of those not yet seen, and any prediction `p_i` and step
    `l_i` in [0, 1) made before `y_i` is seen, `prod exp(l_i (y_i - m_i) - (-log(1 - l_i) - l_i) (y_i - p_i)^2)` is a
    supermartingale (empirical Bernstein, arXiv 2006.04347, section 3). By Ville's inequality it exceeds `1 / error` at
    any time with a probability of at most `error`. As `m_i` is known but for the mean of all, this bounds that mean.
    Here `y_i` is how far a value lies below `high`, in units of the range.

    Args:
        seen: Shape `(n,)`: in the order they were drawn in.
        total: How many there are in all.
        low: No value is below.
        high: No value is above.
        error: The probability that the mean is above some bound, in (0, 1).

    Returns:
        Shape `(n,)`, descending; at most `high`.

    Example:
        >>> losses = np.full(200, -1.0)
        >>> bounds = upper_bounds(losses, 1000, low=-1, high=1, error=0.05)
        >>> bool(bounds[0] > 0 > bounds[50] > bounds[-1] > -1)
        True
    """
    below = (high - np.asarray(seen, dtype=np.float64)) / (high - low)
    count = np.arange(1, len(below) + 1)
    sums = np.cumsum(below)
    before = np.concatenate([[0.0], sums[:-1]])
    predicted = (before + 0.5) / count
    squares = (below - predicted) ** 2
    variance = (np.concatenate([[0.0], np.cumsum((below - (sums + 0.5) / (count + 1)) ** 2)[:-1]]) + 0.25) / count
    step = np.minimum(np.sqrt(2 * np.log(1 / error) / (variance * count * np.log1p(count))), _LARGEST_STEP)
    left = total - count + 1
    earned = np.cumsum(step * (below + before / left)) - np.cumsum((-np.log1p(-step) - step) * squares)
    lower = (earned + np.log(error)) / np.cumsum(step * total / left)
    known = sums / total  # what is seen counts, whatever the rest
    certain = np.maximum.accumulate(np.clip(np.maximum(lower, known), 0, 1))
    return np.asarray(high - certain * (high - low))
