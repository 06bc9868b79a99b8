"""Content fingerprints: equal content, equal digest, on every machine and whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor, nn

from fusion_eval.data.digest import digest_content

__all__ = ["code_of", "describe_architecture", "fingerprint_config", "fingerprint_weights"]

_NO_BEHAVIOUR = {"training", "_parameters", "_buffers", "_modules"}
"""Attributes of every module that are fingerprinted as weights, are modules of their own, or do not last."""


def describe_architecture(module: nn.Module) -> str:
    """Classes and attributes of a module and its parts: what it does with its weights.

    An attribute whose text is only an address makes equal modules look different: one runs twice, never too seldom.

    Example:
        >>> first, second = nn.Dropout(0.1), nn.Dropout(0.1)
        >>> describe_architecture(first) == describe_architecture(second)
        True
        >>> second.p = 0.2
        >>> describe_architecture(first) == describe_architecture(second)
        False
    """
    return repr(
        [
            (name, type(part), {key: value for key, value in vars(part).items() if key not in _NO_BEHAVIOUR})
            for name, part in module.named_modules()
        ]
    )


def code_of(module: nn.Module) -> tuple[tuple[type, object], ...]:
    """Class and `forward` of a module and its parts, as objects: only these tell a class from a later one of its name.

    Example:
        >>> def outputs(sign):
        ...     class Outputs(nn.Identity):
        ...         def forward(self, x):
        ...             return sign * x
        ...     return Outputs()
        >>> describe_architecture(outputs(1)) == describe_architecture(outputs(-1))
        True
        >>> code_of(outputs(1)) == code_of(outputs(-1))
        False
    """
    return tuple((type(part), type(part).forward) for part in module.modules())


def fingerprint_weights(module: nn.Module) -> str:
    """Digest of names, dtypes, shapes and bytes of parameters and buffers, those outside the state dict included.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint_weights(layer)
        >>> _ = layer.bias.data.add_(1)
        >>> before == fingerprint_weights(layer)
        False
    """
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    tensors: dict[str, Tensor] = {**dict(parameters), **dict(buffers)}
    return digest_content([(name, tensors[name]) for name in sorted(tensors)])


def fingerprint_config(*values: Any) -> str:
    """Digest of plain values (what `to_config` returns), whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
