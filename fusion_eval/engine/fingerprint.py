"""Content fingerprints: equal content, equal digest, on every machine and whatever file it came from."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fusion_eval.cpus import usable_cpus
from fusion_eval.data.digest import digest_content
from fusion_eval.engine.config_digest import fingerprint_config

__all__ = ["code_of", "describe_architecture", "fingerprint_config", "fingerprint_weights", "remember_digest"]

_digests: weakref.WeakKeyDictionary[Any, tuple[dict[str, Any], str]] = weakref.WeakKeyDictionary()
"""Object to the hashes of its tensors on a device and the digest of them."""

_MUCH = 2**24
"""Bytes from which on threads are worth their start."""

T = TypeVar("T")

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
    texts: dict[int, str] = {}  # a config may be an attribute of every part

    def text(value: object) -> str:
        if id(value) not in texts:
            texts[id(value)] = repr(value)
        return texts[id(value)]

    return repr(
        [
            (name, type(part), {key: text(value) for key, value in vars(part).items() if key not in _NO_BEHAVIOUR})
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
    return remember_digest(module, tensors, lambda: digest_content(sorted(_of_each(_digest, tensors).items())))


def remember_digest(owner: object, tensors: Mapping[str, Tensor], digest: Callable[[], str]) -> str:
    """The digest of an object's tensors; of those on a device, computed anew only if one of them has changed.

    On a CPU the digest is as fast as any hash that could tell.

    Args:
        owner: The object; nothing is remembered beyond its life.
        tensors: Name to tensor.
        digest: Computes the digest of them.
    """
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors.values())
    return digest() if on_cpu else _remembered(owner, tensors, digest)


def _remembered(owner: object, tensors: Mapping[str, Tensor], digest: Callable[[], str]) -> str:
    """The same, told by a hash of each tensor, where it lies: of 32 bits, so one change in 2^32 goes unseen."""
    hashes = _of_each(lambda tensor: (str(tensor.dtype), tuple(tensor.shape), _hash(tensor)), tensors)
    known = _digests.get(owner)
    if known is None or known[0] != hashes:
        known = _digests[owner] = hashes, digest()
    return known[1]


def _of_each(function: Callable[[Tensor], T], tensors: Mapping[str, Tensor]) -> dict[str, T]:
    """What a function makes of each tensor; in threads, as hashing lets go of the interpreter, where there is much."""
    if sum(tensor.nbytes for tensor in tensors.values()) < _MUCH:
        return {name: function(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(usable_cpus()) as threads:
        return dict(zip(tensors, threads.map(function, tensors.values()), strict=True))


def _digest(tensor: Tensor) -> str:
    return digest_content([tensor])


def _hash(tensor: Tensor) -> int:
    """Sum modulo 2^64 of words of 32 bits, each times a random odd number of its place and another one of its row.

    Carter and Wegman's universal hashing: two contents have the same sum with a probability of about 2^-32; those that
    differ in one word never.
    """
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    factors = _factors(data.device)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for row, piece in enumerate(torch.split(data, 4 * len(factors))):
        words = torch.zeros(-len(piece) // 4 * -4, dtype=torch.uint8, device=data.device)
        words[: len(piece)] = piece
        products = words.view(torch.int32) * factors[: len(words) // 4]
        total += products.sum() * factors[row % len(factors)]
    return int(total)


@functools.cache
def _factors(device: torch.device) -> Tensor:
    drawn = torch.randint(-(2**62), 2**62, (1 << 20,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)
