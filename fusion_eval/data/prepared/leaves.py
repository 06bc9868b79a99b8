"""Items as rows of bytes: an `(input, target)` is taken apart into leaves, and put together again as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Leaf", "UnstorableError", "assemble", "leaves_of"]

Kind = Literal["tensor", "int", "float", "text"]

_NUMBERS: dict[type, tuple[Kind, torch.dtype]] = {int: ("int", torch.int64), float: ("float", torch.float64)}


class UnstorableError(Exception):
    """Items that cannot be stored; they are made anew each time they are asked for."""


@dataclass(frozen=True)
class Leaf:
    """One part of every item.

    Attributes:
        path: Where it is in the item: indices of tuples and keys of mappings.
        kind: `tensor`; `int` and `float` for plain numbers; `text` for strings, lists, ... of plain values, as JSON.
        dtype: Name of the dtype of what is stored.
    """

    path: tuple[int | str, ...]
    kind: Kind
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of what is stored."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def restore(self, stored: Tensor) -> Any:
        """What was in the item, of what is stored of it."""
        if self.kind == "tensor":
            return stored
        if self.kind == "text":
            return json.loads(stored.numpy().tobytes())
        return stored.item()


def leaves_of(item: tuple[Any, Any]) -> list[tuple[Leaf, Tensor]]:
    """The leaves of an item, in a fixed order, each with what is stored of it.

    Raises:
        UnstorableError: a leaf is no tensor and no plain value, or would come back as something else.

    Example:
        >>> [(leaf.path, leaf.kind, tensor.tolist()) for leaf, tensor in leaves_of(({"x": torch.ones(2)}, 7))]
        [((0, 'x'), 'tensor', [1.0, 1.0]), ((1,), 'int', 7)]
    """
    return [_stored(path, value) for part, whole in enumerate(item) for path, value in _walk((part,), whole)]


def assemble(leaves: list[Leaf], value_of: Callable[[int], Any]) -> tuple[Any, Any]:
    """An item, or a batch, of its leaves.

    Args:
        leaves: Of the items.
        value_of: The value for the leaf at a place in `leaves`.
    """
    parts: list[Any] = [{}, {}]
    for place, leaf in enumerate(leaves):
        part, *keys = leaf.path
        if not keys:
            parts[int(part)] = value_of(place)
            continue
        inner = parts[int(part)]
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value_of(place)
    return parts[0], parts[1]


def _walk(path: tuple[int | str, ...], value: Any) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    if isinstance(value, Mapping) and value and not _is_plain(value):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UnstorableError(f"key {key!r} is no string")
            yield from _walk((*path, key), inner)
    else:
        yield path, value


def _stored(path: tuple[int | str, ...], value: Any) -> tuple[Leaf, Tensor]:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.dtype.is_complex:
            raise UnstorableError(f"a tensor of layout {value.layout} and dtype {value.dtype}")
        return Leaf(path, "tensor", str(value.dtype).removeprefix("torch.")), value.detach().cpu().contiguous()
    if type(value) in _NUMBERS:
        kind, dtype = _NUMBERS[type(value)]
        try:
            return Leaf(path, kind, str(dtype).removeprefix("torch.")), torch.tensor(value, dtype=dtype)
        except (OverflowError, RuntimeError, ValueError) as error:
            raise UnstorableError(f"{value} does not fit into 64 bits") from error
    if not _is_plain(value):
        raise UnstorableError(f"a {type(value).__module__}.{type(value).__qualname__}")
    return Leaf(path, "text", "uint8"), torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back an equal value of the same types."""
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return type(value) is list and all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
