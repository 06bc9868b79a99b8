"""Random numbers that depend on nothing but a seed, the expert and the tensor they are drawn for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fusion_eval.merging.state_dict import StateDict, distinct_names

__all__ = ["Draw", "drawing"]

Draw = Callable[[str, Tensor], Tensor]
"""Given the name of a tensor and its values for `n` experts, shape `(n, ...)`, as many float32 numbers in [0, 1)."""


def drawing(seed: int, base: StateDict, experts: Iterable[str]) -> Draw:
    """Uniform numbers, bit-equal across processes, threads, devices, and orders of keys and experts.

    An expert's numbers do not depend on which others there are. Tied tensors, which are merged under any of their
    names, are drawn for under the first by the alphabet.

    Example:
        >>> uniform = drawing(0, {"weight": torch.zeros(2)}, ["mnist", "svhn"])
        >>> uniform("weight", torch.zeros(2, 2))
        tensor([[0.1462, 0.1271],
                [0.4990, 0.4419]])
    """
    named = distinct_names(dict(sorted(base.items())))
    keys = list(experts)

    def draw(name: str, stacked: Tensor) -> Tensor:
        generators = [_generator(seed, key, named[name]) for key in keys]
        drawn = [torch.rand(stacked.shape[1:], generator=generator) for generator in generators]
        return torch.stack(drawn).to(stacked.device)

    return draw


def _generator(*parts: int | str) -> torch.Generator:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()  # hash() differs between processes
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
