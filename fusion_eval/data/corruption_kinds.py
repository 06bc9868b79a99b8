"""The corruptions of ImageNet-C (arXiv 1903.12261): what each does to pixels, and how much at each severity.

Each takes pixels `(h, w, 3)` in uint8, the parameter of a severity and a source of random numbers, and returns pixels
of the same shape in uint8.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np

from fusion_eval.data.spatter import spatter

__all__ = ["KINDS", "PARAMETERS"]


def gaussian_noise(pixels: np.ndarray, scale: float, random: np.random.RandomState) -> np.ndarray:
    """Add normal noise with a standard deviation in units of the full range."""
    return _as_uint8(pixels / 255.0 + random.normal(size=pixels.shape, scale=scale))


def impulse_noise(pixels: np.ndarray, share: float, random: np.random.RandomState) -> np.ndarray:
    """Set a share of all values to black or white, with the same probability (skimage's salt and pepper)."""
    hit = random.random_sample(pixels.shape) <= share
    white = random.random_sample(pixels.shape) <= 0.5
    return _as_uint8(np.where(hit, white, pixels / 255.0))


def motion_blur(pixels: np.ndarray, parameter: tuple[int, float], random: np.random.RandomState) -> np.ndarray:
    """Smear along a line that starts at the pixel, weighted by one half of a normal density, as ImageMagick does.

    Args:
        pixels: See above.
        parameter: Radius (the line has `2 * radius + 1` points) and standard deviation in pixels.
        random: See above.
    """
    radius, sigma = parameter
    angle = math.radians(random.uniform(-45, 45))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    rows, columns = np.arange(pixels.shape[0]), np.arange(pixels.shape[1])
    blurred = np.zeros(pixels.shape)
    for step, weight in enumerate(weights / weights.sum()):
        down, right = (math.ceil(step * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
        near_rows = (rows + down).clip(0, len(rows) - 1)  # beyond the border lies the nearest pixel again
        near_columns = (columns + right).clip(0, len(columns) - 1)
        blurred += weight * pixels[near_rows[:, None], near_columns]
    return _as_uint8(blurred / 255.0)


def contrast(pixels: np.ndarray, factor: float, random: np.random.RandomState) -> np.ndarray:
    """Move every value towards the mean of its channel."""
    values = pixels / 255.0
    means = values.mean(axis=(0, 1), keepdims=True)
    return _as_uint8((values - means) * factor + means)


def pixelate(pixels: np.ndarray, factor: float, random: np.random.RandomState) -> np.ndarray:
    """Shrink to a share of the size, and enlarge again."""
    from PIL.Image import Resampling, fromarray

    height, width = pixels.shape[:2]
    small = fromarray(pixels).resize((max(1, int(width * factor)), max(1, int(height * factor))), Resampling.BOX)
    return np.asarray(small.resize((width, height), Resampling.BOX))


def jpeg(pixels: np.ndarray, quality: int, random: np.random.RandomState) -> np.ndarray:
    """Compress as JPEG."""
    from PIL.Image import fromarray, open

    file = io.BytesIO()
    fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(open(file))


KINDS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": gaussian_noise,
    "impulse_noise": impulse_noise,
    "motion_blur": motion_blur,
    "spatter": spatter,
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg": jpeg,
}
"""Name to corruption."""

PARAMETERS: dict[str, dict[str, tuple[object, ...]]] = {
    "imagenet": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, "water"),
            (0.65, 0.3, 3, 0.68, 0.6, "water"),
            (0.65, 0.3, 2, 0.68, 0.5, "water"),
            (0.65, 0.3, 1, 0.65, 1.5, "mud"),
            (0.67, 0.4, 1, 0.65, 1.5, "mud"),
        ),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg": (25, 18, 15, 10, 7),
    },
    "cifar": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, "water"),
            (0.65, 0.1, 0.8, 0.7, 0.5, "water"),
            (0.65, 0.3, 1, 0.69, 0.5, "water"),
            (0.65, 0.1, 0.7, 0.69, 0.6, "mud"),
            (0.65, 0.1, 0.5, 0.68, 0.6, "mud"),
        ),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg": (80, 65, 58, 50, 40),
    },
}
"""What images the parameters are meant for, to kind, to the parameter of each severity."""


def _as_uint8(values: np.ndarray) -> np.ndarray:
    """Values in units of the full range, clipped and truncated."""
    return (values.clip(0, 1) * 255).astype(np.uint8)
