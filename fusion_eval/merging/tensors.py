"""What all methods share: go through the tensors, combine the floating-point ones, refuse what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fusion_eval.errors import MergeError
from fusion_eval.merging.method import StateDict

__all__ = ["Rule", "copy_tensors", "distinct_names", "merge_tensors", "merge_whole_tensors", "wide"]

Rule = Callable[[str, Tensor, Tensor], Tensor]
"""Combines, given its name, `k` elements of a tensor of the base, shape `(k,)`, with the same of `n` experts, shape
`(n, k)`, into new ones, shape `(k,)`. All are `wide`. For `merge_whole_tensors`, read `*shape` where it says `k`."""

_Combine = Callable[[str, Tensor, Sequence[Tensor]], Tensor]

_ELEMENTS_AT_ONCE = 2**16  # few enough that what a rule computes stays in the cache: 4 times as fast as whole layers


def merge_tensors(base: StateDict, experts: Mapping[str, StateDict], rule: Rule) -> dict[str, Tensor]:
    """Apply a rule to every distinct floating-point tensor, slice by slice; copy the others from the base.

    Args:
        base: The pretrained weights.
        experts: As `read_experts` returns them; the rule sees them stacked in this order.
        rule: What the method does to each element.

    Raises:
        MergeError: a tensor is complex, or its merge is not finite.
    """

    def combine(name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Tensor:
        slices = zip(*(torch.split(source.flatten(), _ELEMENTS_AT_ONCE) for source in (tensor, *theirs)), strict=True)
        merged = [_apply(rule, name, ours, others) for ours, *others in slices]
        return torch.cat(merged).view(tensor.shape)

    return _merge_floating(base, experts, combine)


def merge_whole_tensors(base: StateDict, experts: Mapping[str, StateDict], rule: Rule) -> dict[str, Tensor]:
    """Apply a rule that needs all of a tensor at once (a norm, an angle, singular values); else as `merge_tensors`.

    Args:
        base: The pretrained weights.
        experts: As `read_experts` returns them; the rule sees them stacked in this order.
        rule: Given a tensor of the base with `shape` and the experts' with `(n, *shape)`, makes one with `shape`. It
            never sees a tensor without elements: there is nothing to merge in it.

    Raises:
        MergeError: a tensor is complex, or its merge is not finite.
    """

    def combine(name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Tensor:
        return _apply(rule, name, tensor, theirs) if tensor.numel() else tensor.clone()

    return _merge_floating(base, experts, combine)


def _apply(rule: Rule, name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Tensor:
    return rule(name, wide(tensor), torch.stack([wide(one) for one in theirs])).to(tensor.dtype)


def _merge_floating(base: StateDict, experts: Mapping[str, StateDict], combine: _Combine) -> dict[str, Tensor]:
    """Combine every distinct floating-point tensor with the experts' of its name; copy the others from the base."""

    def merge(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            raise MergeError(f"tensor {name!r} is {tensor.dtype}: only real tensors can be merged")
        if not tensor.is_floating_point():
            return tensor.clone()
        theirs = {f"expert {key!r}": expert[name] for key, expert in experts.items()}
        return _finite(name, combine(name, tensor, list(theirs.values())), {"the base": tensor} | theirs)

    return _for_distinct(base, merge)


def copy_tensors(state_dict: StateDict, base: StateDict, source: str) -> dict[str, Tensor]:
    """Copy all tensors, the integer ones too, to the dtypes of the base.

    Args:
        state_dict: What is copied; it fits the base.
        base: Gives the keys, their order and the dtypes.
        source: What `state_dict` is, for messages.

    Raises:
        MergeError: a tensor is not finite.
    """

    def copy(name: str, tensor: Tensor) -> Tensor:
        original = state_dict[name]
        return _finite(name, original.to(tensor.dtype, copy=True), {source: original})

    return _for_distinct(base, copy)


@torch.no_grad()
def _for_distinct(base: StateDict, make: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Make one tensor for every distinct tensor of the base, and give it to all names that are tied to it."""
    first_of = distinct_names(base)
    made = {name: make(name, base[name]) for name in dict.fromkeys(first_of.values())}
    return {name: made[first] for name, first in first_of.items()}


def distinct_names(state_dict: StateDict) -> dict[str, str]:
    """Every name to the first name of the same memory: itself, unless the weights are tied.

    Example:
        >>> embedding = torch.zeros(4, 2)
        >>> distinct_names({"embed.weight": embedding, "norm.weight": torch.ones(2), "lm_head.weight": embedding})
        {'embed.weight': 'embed.weight', 'norm.weight': 'norm.weight', 'lm_head.weight': 'embed.weight'}
    """
    first: dict[object, str] = {}
    return {
        name: first.setdefault((tensor.data_ptr() or name, tensor.shape, tensor.stride(), tensor.dtype), name)
        for name, tensor in state_dict.items()
    }


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the precision that methods compute in: float32, or its own if that is float64 or complex."""
    return tensor if tensor.dtype == torch.float64 or tensor.is_complex() else tensor.float()


def _finite(name: str, merged: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The merged tensor, if all its values are finite; if not, say which inputs already had such values."""
    if _is_finite(merged):
        return merged
    culprits = [source for source, tensor in inputs.items() if not _is_finite(tensor)]
    cause = (
        f"it already is so in {' and '.join(culprits)}"
        if culprits
        else f"though all inputs are finite: the merge is too large for {merged.dtype}"
    )
    raise MergeError(f"merged tensor {name!r} holds NaN or Inf: {cause}")


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(wide(tensor)).all())
