"""Spatter of water and mud on the lens: a corruption of ImageNet-C (arXiv 1903.12261, appendix)."""

from __future__ import annotations

import numpy as np

from fusion_eval.errors import DataError

__all__ = ["spatter"]

_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
"""Filter that lightens one side of a drop and darkens the other."""
_WEAK, _STRONG = 50, 150
"""Thresholds of the edge detector."""
_TAN_22 = np.tan(np.pi / 8)
_UNIT = 1 << 16
"""Distances are in fixed point, as OpenCV's: what floats make of a mean of 20 would be visible."""
_FAR = 20 * _UNIT
"""20 pixels, from where on all is the same."""
_MOVES = [
    (sign * row, other * column, round(length * _UNIT))
    for rows, columns, length in ((0, 1, 1.0), (1, 1, 1.4), (1, 2, 2.1969))
    for row, column in {(rows, columns), (columns, rows)}
    for sign in (1, -1)
    for other in (1, -1)
]
"""Rows, columns and length of the steps of a 5x5 chamfer mask (Borgefors 1986)."""


def spatter(
    pixels: np.ndarray, parameter: tuple[float, float, float, float, float, str], random: np.random.RandomState
) -> np.ndarray:
    """Blurred noise above a threshold is liquid: water shines where a drop ends, mud covers.

    The steps are those of the authors' code, in which OpenCV finds the edges of the drops and the distance to them.

    Args:
        pixels: Shape `(h, w, 3)`, uint8.
        parameter: Mean and standard deviation of the noise, sigma of its blur in pixels, threshold, strength of the
            water (or sigma of the mud's edge in pixels), and "water" or "mud".
        random: Source of random numbers.

    Returns:
        Shape `(h, w, 3)`, uint8.

    Raises:
        DataError: scipy is not installed.
    """
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise DataError("the corruption spatter needs scipy: pip install scipy") from error
    mean, deviation, blur, threshold, strength, liquid = parameter
    layer = gaussian_filter(random.normal(size=pixels.shape[:2], loc=mean, scale=deviation), blur, mode="nearest")
    layer[layer < threshold] = 0
    image = pixels / np.float32(255)
    if liquid == "water":
        image = image + strength * _drops(layer)[..., None] * _WATER
    else:
        mask = gaussian_filter((layer > threshold).astype(np.float32), strength, mode="nearest")
        mask[mask < 0.8] = 0
        image = image * (1 - mask[..., None]) + mask[..., None] * _MUD
    return np.asarray((image.clip(0, 1) * 255).astype(np.uint8))


def _drops(layer: np.ndarray) -> np.ndarray:
    """How much light each pixel gets from drops of water: shape `(h, w)`, in [0, 1]."""
    from scipy.ndimage import correlate, uniform_filter

    levels = (layer * 255).astype(np.int64).astype(np.uint8)  # brighter than white wraps around, on every machine
    near = correlate(_distance(_edges(levels)), np.ones((3, 3), dtype=int), mode="mirror") // (9 * _UNIT)
    relief = _equalize(near.astype(np.uint8))
    lit = correlate(relief.astype(np.int64), _LIGHT, mode="mirror").clip(0, 255)
    light = levels * np.rint(uniform_filter(lit.astype(np.float64), 3, mode="mirror"))
    return np.asarray(light / max(light.max(), 1))


def _edges(levels: np.ndarray) -> np.ndarray:
    """Canny's edges (IEEE TPAMI 8(6), 1986): shape `(h, w)`, bool.

    A pixel is on an edge if the change of brightness across it, by Sobel's filters and in the norm |x| + |y|, is larger
    than that of its neighbours on either side, and weak edges count only where they are connected with strong ones.
    """
    from scipy.ndimage import label, sobel

    across, down = (sobel(levels.astype(np.int64), axis, mode="nearest") for axis in (1, 0))
    change = np.abs(across) + np.abs(down)
    around = np.pad(change, 1)
    height, width = change.shape

    def neighbour(row: int, column: int) -> np.ndarray:
        return around[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    horizontal = np.abs(down) < np.abs(across) * _TAN_22
    vertical = np.abs(down) > np.abs(across) * (_TAN_22 + 2)
    falling = np.sign(across) * np.sign(down) >= 0
    largest = np.select(
        [horizontal, vertical, falling],
        [
            (change > neighbour(0, -1)) & (change >= neighbour(0, 1)),
            (change > neighbour(-1, 0)) & (change >= neighbour(1, 0)),
            (change > neighbour(-1, -1)) & (change > neighbour(1, 1)),
        ],
        (change > neighbour(-1, 1)) & (change > neighbour(1, -1)),
    )
    connected, _ = label(largest & (change > _WEAK), structure=np.ones((3, 3)))
    strong = np.unique(connected[largest & (change > _STRONG)])
    return np.isin(connected, strong[strong > 0])


def _distance(edges: np.ndarray) -> np.ndarray:
    """Length of the shortest way to an edge in `_MOVES`, at most `_FAR`: shape `(h, w)`, in fixed point."""
    height, width = edges.shape
    distance = np.where(edges, np.int32(0), np.int32(_FAR))
    while True:
        around = np.pad(distance, 2, constant_values=_FAR)
        ways = [
            around[2 + row : 2 + row + height, 2 + column : 2 + column + width] + length
            for row, column, length in _MOVES
        ]
        nearer = np.minimum.reduce([distance, *ways])
        if (nearer == distance).all():
            return np.asarray(distance)
        distance = nearer


def _equalize(levels: np.ndarray) -> np.ndarray:
    """Spread grey levels so that all are about as frequent; the lowest becomes 0."""
    counts = np.bincount(levels.ravel(), minlength=256)
    above = np.cumsum(counts) - counts[levels.min()]
    if above[-1] == 0:  # one level only
        return levels
    return np.asarray(np.rint(above * (255 / above[-1])).clip(0, 255).astype(np.uint8)[levels])
