"""Content fingerprints: equal content, equal digest, on every machine and whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fingerprint_config", "fingerprint_weights"]


def fingerprint_weights(module: nn.Module) -> str:
    """Digest of names, dtypes, shapes and bytes of a module's state dict, whatever its order.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint_weights(layer)
        >>> _ = layer.bias.data.add_(1)
        >>> before == fingerprint_weights(layer)
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    state: Mapping[str, Tensor] = module.state_dict()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_config(*values: Any) -> str:
    """Digest of plain values (what `to_config` returns), whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
