"""An architecture whose weights are about to be read from disk, without the time its random ones take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["build_unfilled"]


def build_unfilled(architecture: Callable[[], nn.Module]) -> nn.Module:
    """Build a module all of whose state dict is written next; no random numbers are drawn where none is missed.

    None is missed if whatever is computed from random numbers ends up in the state dict, and nowhere else: not in a
    buffer outside of it, not in an attribute, not in a number that Python sees, as in the rejection sampling of
    `trunc_normal_` (only `.numpy()` and `.tolist()` of a random weight in a constructor would go unseen). Where one is,
    the module is built once more, the usual way.

    Args:
        architecture: Builds the module.

    Example:
        >>> layer = build_unfilled(lambda: nn.Linear(2, 3))
        >>> layer.load_state_dict({"weight": torch.ones(3, 2), "bias": torch.zeros(3)})
        <All keys matched successfully>
    """
    random = _RandomValues()
    try:
        with random:
            module = architecture()
        replaced = {_storage(tensor) for tensor in module.state_dict().values()}
    except Exception:  # also what is wrong with the architecture itself: it shows again
        return architecture()
    return architecture() if random.are_missed(replaced) else module


class _SeenByPythonError(Exception):
    """A number that depends on random ones is about to leave torch."""


class _RandomValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows random numbers, and all that is computed from them, without drawing them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._followed: dict[int, StorageWeakRef] = {}

    def are_missed(self, replaced: set[int]) -> bool:
        """Whether a value that is still there, outside of the storages that are replaced, should have been random."""
        left = {key for key, storage in self._followed.items() if not storage.expired()}  # type: ignore[no-untyped-call]
        return not left <= replaced

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((args, kwargs)))
        followed = any(_storage(tensor) in self._followed for tensor in given)
        if torch.Tag.nondeterministic_seeded not in func.tags and not followed:
            return func(*args, **(kwargs or {}))
        in_place = len(given) == 1 and func._schema.name.endswith("_")
        if in_place and not {torch.Tag.nondeterministic_seeded, torch.Tag.pointwise}.isdisjoint(func.tags):
            made = given[0]
        else:
            made = func(*args, **(kwargs or {}))
        if isinstance(made, (bool, int, float, complex)):
            raise _SeenByPythonError
        for tensor in _tensors((made, given if func._schema.is_mutable else ())):
            self._followed[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        return made


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
