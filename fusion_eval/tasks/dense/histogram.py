"""Counting what the pixels of each image are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_pixels"]


def count_pixels(bins: Tensor, valid: Tensor, count: int) -> Tensor:
    """How many valid pixels of each image fall into each bin, without waiting for the device.

    `torch.bincount`, and taking the valid pixels out of a map, have shapes that depend on the values: a GPU would have
    to tell the CPU before it could go on.

    Args:
        bins: Shape `(n, height, width)`, int64: the bin of each pixel, in `[0, count)` where it is valid.
        valid: Of the same shape, bool.
        count: Number of bins.

    Returns:
        Shape `(n, count)`, int32: sums of integers, so they are the same in whatever order a device adds them.

    Example:
        >>> count_pixels(torch.tensor([[[0, 2], [2, 7]]]), torch.tensor([[[True, True], [True, False]]]), 3)
        tensor([[1, 0, 2]], dtype=torch.int32)
    """
    places = bins.where(valid, count).flatten(1)
    one = torch.ones((), dtype=torch.int32, device=bins.device)
    counts = torch.zeros(len(bins), count + 1, dtype=torch.int32, device=bins.device)
    return counts.scatter_add_(1, places, one.expand(places.shape))[:, :count]
