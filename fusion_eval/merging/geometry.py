"""Lengths, directions and angles of vectors that lie along the last axis, float64 in and out; sums of magnitudes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["absolute_sum", "angle", "direction", "inner", "length", "slerp"]

_SUMMED_AT_ONCE = 2**14  # torch divides a longer sum among its threads: the rounding would depend on their number
_PARALLEL = 1e-6  # sines below are noise of float32 weights, and the straight line is as good as the arc


def absolute_sum(tensor: Tensor) -> float:
    """The L1 norm of all values, added up in float64 by NumPy, whose sum does not depend on the number of threads."""
    return float(np.abs(tensor.cpu().numpy()).sum(dtype=np.float64))


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Inner products along the last axis, which stays with a length of 1. Bit-equal for any number of threads."""
    pieces = zip(*(torch.split(vectors, _SUMMED_AT_ONCE, dim=-1) for vectors in (one, other)), strict=True)
    return torch.stack([(a * b).sum(dim=-1, keepdim=True) for a, b in pieces]).sum(dim=0)


def length(vectors: Tensor) -> Tensor:
    """Euclidean lengths: shape `(..., d)` to `(..., 1)`."""
    return inner(vectors, vectors).sqrt()


def direction(vectors: Tensor) -> Tensor:
    """The vectors with a length of 1; one without a direction, 0, stays 0."""
    lengths = length(vectors)
    return vectors / lengths.where(lengths != 0, 1)


def angle(one: Tensor, other: Tensor) -> Tensor:
    """Angles in [0, pi] between directions, shape `(..., 1)`; exact near 0 and pi too, where an arc cosine is not."""
    return 2 * torch.atan2(length(one - other), length(one + other))


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985, "Animating rotation with quaternion curves").

    `sin((1 - t) * angle) / sin(angle) * start + sin(t * angle) / sin(angle) * end`, and the straight line
    `(1 - t) * start + t * end` where there is no one arc: the two are parallel or opposite, or one is 0.

    Args:
        start: Shape `(..., d)`; need not have a length of 1.
        end: The same shape.
        t: 0 is `start`, 1 is `end`.

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
        tensor([0.7071, 0.7071])
    """
    between = angle(direction(start), direction(end))
    straight = (between.sin() < _PARALLEL) | (length(start) == 0) | (length(end) == 0)
    sine = between.sin().where(~straight, 1)
    from_start = (((1 - t) * between).sin() / sine).where(~straight, 1 - t)
    from_end = ((t * between).sin() / sine).where(~straight, t)
    return from_start * start + from_end * end
