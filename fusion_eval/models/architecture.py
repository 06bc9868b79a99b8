"""An architecture whose weights are merged next: without the time that random ones, and a copy of these, would take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusion_eval.merging.state_dict import distinct_names

__all__ = ["build_unfilled", "form_of", "put"]


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


def form_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without its values, on the meta device; tied names have one tensor.

    Example:
        >>> form_of(nn.Linear(2, 3))["weight"].shape
        torch.Size([3, 2])
    """
    held = module.state_dict()
    first_of = distinct_names(held)
    forms = {name: held[name].to("meta") for name in first_of.values()}
    return {name: forms[first] for name, first in first_of.items()}


def put(merged: Tensor, place: Tensor) -> None:
    """Write a merged tensor into a module. Call it without gradients.

    Where nothing else sees the memory of either, the module takes over that of the merged tensor, as in `Module.to`:
    a copy takes a sixth of the processor time of an average of eight models, most of it to be given other memory.

    Args:
        merged: What no one is going to write to.
        place: The parameter or buffer, from `state_dict(keep_vars=True)`.
    """
    if place.is_set_to(merged):
        return  # tied to one that has taken it over
    same_form = place.dtype == merged.dtype and place.device == merged.device and place.stride() == merged.stride()
    if same_form and not merged.is_inference() and _is_alone(place) and _is_alone(merged):
        place.data = merged
    else:
        place.copy_(merged)


def _is_alone(tensor: Tensor) -> bool:
    """Whether its storage holds nothing but this tensor, and no other tensor sees it."""
    storage = tensor.untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)  # the tensor, and `storage`
    return users == 2 and storage.nbytes() == tensor.nbytes


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
