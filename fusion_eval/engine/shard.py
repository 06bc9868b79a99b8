"""Which samples a process evaluates, and how its part finds back to the whole: exact, whatever the world size.

Lightning's own test sampler pads with repeated samples. Here rank `r` of `w` takes `indices[r::w]`, nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_eval.data import Samples

__all__ = ["by_length", "interleave", "select"]


def select(n: int, limit: int | None, seed: int) -> np.ndarray:
    """Sample indices to evaluate, ascending: all `n`, or a seeded random `limit` of them.

    Random because many data sets are stored class by class, where the first samples would be of one class.

    Example:
        >>> select(4, None, seed=0), len(select(1000, 10, seed=0))
        (array([0, 1, 2, 3]), 10)
    """
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size=limit, replace=False))


def by_length(samples: Samples, indices: np.ndarray) -> np.ndarray:
    """The same indices, longest sample first where samples differ in length: little is padded, and what does not fit
    into memory shows at once.

    Example:
        >>> import torch
        >>> from fusion_eval.data import TensorSamples
        >>> by_length(TensorSamples(torch.zeros(3, 2), torch.zeros(3)), np.array([0, 2]))
        array([0, 2])
    """
    lengths = samples.lengths()
    return indices if lengths is None else indices[np.argsort(-lengths[indices], kind="stable")]


def interleave(shards: Sequence[np.ndarray]) -> np.ndarray:
    """Undo `indices[r::w]`: rank `r`'s rows go to the places `r, r + w, ...`.

    Example:
        >>> interleave([np.array([0, 2, 4]), np.array([1, 3])])
        array([0, 1, 2, 3, 4])
    """
    whole = np.empty((sum(map(len, shards)), *shards[0].shape[1:]), dtype=shards[0].dtype)
    for rank, shard in enumerate(shards):
        whole[rank :: len(shards)] = shard
    return whole
