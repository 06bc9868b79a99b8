"""From what a method yields to a whole state dict, one tensor at a time: rounded once, checked, nothing left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fusion_eval.errors import MergeError
from fusion_eval.merging.state_dict import StateDict, distinct_names

if TYPE_CHECKING:
    from fusion_eval.merging.method import MergingMethod

__all__ = ["Finite", "Integers", "finished", "is_finite"]

Integers = Literal["base", "average"]
"""Where the integer tensors of a merge come from: copied from the base, or averaged over the experts and rounded."""


class Finite(Iterator[tuple[str, Tensor]]):
    """Names and merged tensors, as a method yields them, that need not be looked at again: all values are finite."""

    def __init__(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        self._tensors = tensors

    def __next__(self) -> tuple[str, Tensor]:
        return next(self._tensors)


@torch.no_grad()
def finished(
    method: MergingMethod,
    base: StateDict,
    experts: Mapping[str, StateDict],
    dtype: torch.dtype | None = None,
    integers: Integers = "base",
) -> Iterator[tuple[str, Tensor]]:
    """Merge, and yield every tensor of the base as soon as it is ready. Only one tensor is in memory at a time.

    Args:
        method: What merges the floating-point tensors.
        base: As `MergingMethod.stream` takes it.
        experts: Likewise.
        dtype: Of the floating-point tensors; None: those of the base.
        integers: Where a method yields no integer tensor. Booleans are always the base's.

    Yields:
        Every name of the base, in no particular order, and its tensor; tied names get the same one.

    Raises:
        MergeError: from the method; or it left a tensor out, or one is not finite, or too large for the dtype.
    """
    names_of = defaultdict(list)
    for name, first in distinct_names(base).items():
        names_of[first].append(name)
    stream = method.stream(base, experts)
    for name, merged in stream:
        if name not in names_of or merged.shape != base[name].shape:
            raise MergeError(f"{method} made a tensor {name!r} of shape {tuple(merged.shape)}, which the base has not")
        rounded = merged.to(dtype if dtype and merged.is_floating_point() else base[name].dtype)
        if rounded is not merged or not isinstance(stream, Finite):
            _require_finite(name, merged, rounded)
        for tied in names_of.pop(name):
            yield tied, rounded
    if forgotten := [name for name in names_of if base[name].is_floating_point()]:
        raise MergeError(f"{method} left out {', '.join(forgotten[:5])}")
    for first, names in names_of.items():
        copied = _average(first, base, experts) if integers == "average" else base[first].clone()
        for name in names:
            yield name, copied


def _require_finite(name: str, merged: Tensor, rounded: Tensor) -> None:
    if not is_finite(rounded):
        cause = (
            f": though all inputs are finite: the merge is too large for {rounded.dtype}" if is_finite(merged) else ""
        )
        raise MergeError(f"merged tensor {name!r} holds NaN or Inf{cause}")


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are; a sum, one pass without a temporary, tells unless it overflows."""
    values = tensor if tensor.dtype in (torch.float32, torch.float64) or tensor.is_complex() else tensor.float()
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _average(name: str, base: StateDict, experts: Mapping[str, StateDict]) -> Tensor:
    """The mean of an integer tensor over the experts, rounded half to even; of booleans, the base's."""
    tensor = base[name]
    if tensor.dtype == torch.bool or tensor.is_complex() or not experts:
        return tensor.clone()
    return torch.stack([experts[key][name].double() for key in sorted(experts)]).mean(dim=0).round().to(tensor.dtype)
