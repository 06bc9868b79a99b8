"""What all methods share: go through the tensors, combine the floating-point ones, refuse what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fusion_eval.errors import MergeError
from fusion_eval.merging.state_dict import StateDict, distinct_names, wide
from fusion_eval.merging.stream import Finite, is_finite
from fusion_eval.threads import for_each

__all__ = [
    "Merging",
    "Rule",
    "Sum",
    "Tensors",
    "apply_rule",
    "apply_sum",
    "apply_to_whole",
    "completed",
    "copy_tensors",
    "merge_floating",
    "merge_tensors",
    "merge_whole_tensors",
    "sum_tensors",
    "widest",
]

Tensors = Iterator[tuple[str, Tensor]]
"""Names and merged tensors, as `MergingMethod.stream` yields them."""

Rule = Callable[[str, Tensor, Tensor], Tensor]
"""Combines, given its name, `k` elements of a tensor of the base, shape `(k,)`, with the same of `n` experts, shape
`(n, k)`, into new ones, shape `(k,)`. All are `wide`. For `merge_whole_tensors`, read `*shape` where it says `k`."""

Sum = Callable[[str, Tensor, Sequence[Tensor]], Tensor]
"""A rule that adds up: it takes the elements of the `n` experts one after the other, each of shape `(k,)`."""

_STACKED_AT_ONCE = 2**14  # few enough that what a rule computes stays in the cache: 4 times as fast as whole layers
_SUMMED_AT_ONCE = 2**17  # the sum stays in the cache, what is added need not; with fewer it is slower
_MERGED_A_THREAD = 2**22  # at least so many, of small tensors together, before threads wait for each other,
_MERGED_AT_ONCE = 2**25  # but no more than that in all


class Merging(NamedTuple):
    """A tensor that is being merged.

    Attributes:
        tensor: The merged one, once all parts are done.
        parts: What is left to be done, by several threads at once, in any order: each makes some of the elements, and
            returns whether they are finite.
    """

    tensor: Tensor
    parts: Sequence[Callable[[], bool]] = ()


def merge_tensors(base: StateDict, experts: Mapping[str, StateDict], rule: Rule) -> Tensors:
    """Apply a rule to every distinct floating-point tensor, slice by slice, of all experts at once.

    Args:
        base: The pretrained weights.
        experts: As `read_experts` returns them; the rule sees them stacked in this order.
        rule: What the method does to each element.

    Raises:
        MergeError: a tensor is complex, or its merge is not finite.
    """
    return merge_floating(base, experts, partial(apply_rule, rule))


def sum_tensors(base: StateDict, experts: Mapping[str, StateDict], rule: Sum) -> Tensors:
    """The same for a rule that adds up: twice as fast, as nothing is stacked."""
    return merge_floating(base, experts, partial(apply_sum, rule))


def merge_whole_tensors(base: StateDict, experts: Mapping[str, StateDict], rule: Rule) -> Tensors:
    """Apply a rule that needs all of a tensor at once (a norm, an angle, singular values); else as `merge_tensors`.

    Args:
        base: The pretrained weights.
        experts: As `read_experts` returns them; the rule sees them stacked in this order.
        rule: Given a tensor of the base with `shape` and the experts' with `(n, *shape)`, makes one with `shape`. It
            never sees a tensor without elements: there is nothing to merge in it.

    Raises:
        MergeError: a tensor is complex, or its merge is not finite.
    """
    return merge_floating(base, experts, partial(apply_to_whole, rule))


def apply_rule(rule: Rule, name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
    """What a rule makes of one tensor, of shape `*shape`, and the experts' of its name, slice by slice."""
    dtype = widest([tensor, *theirs])
    return _by_slices(
        _STACKED_AT_ONCE,
        tensor,
        theirs,
        lambda ours, others: rule(name, wide(ours), torch.stack([one.to(dtype) for one in others])),
    )


def apply_sum(rule: Sum, name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
    """The same for a rule that adds up."""
    return _by_slices(
        _SUMMED_AT_ONCE, tensor, theirs, lambda ours, others: rule(name, wide(ours), [wide(one) for one in others])
    )


def apply_to_whole(rule: Rule, name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
    """The same for a rule that needs all at once, done already; it is not asked about a tensor without elements."""
    if tensor.numel() == 0:
        return Merging(wide(tensor).clone())
    return Merging(rule(name, wide(tensor), torch.stack([wide(one) for one in theirs])))


def _by_slices(
    size: int, tensor: Tensor, theirs: Sequence[Tensor], rule: Callable[[Tensor, list[Tensor]], Tensor]
) -> Merging:
    merged = torch.empty(tensor.shape, dtype=widest([tensor, *theirs]), device=tensor.device)
    flat = [each.flatten() for each in (merged, tensor, *theirs)]  # of the merged one it is a view

    def merge(start: int) -> bool:
        result, ours, *others = (each[start : start + size] for each in flat)
        return is_finite(result.copy_(rule(ours, others)))

    return Merging(merged, [partial(merge, start) for start in range(0, merged.numel(), size)])


def completed(merging: Merging) -> Tensor:
    """The merged tensor, after what was left to be done."""
    return _finished({"": merging})[0][""]


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """What these are merged in: float32, or float64 if one of them is."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def merge_floating(
    base: StateDict, experts: Mapping[str, StateDict], combine: Callable[[str, Tensor, Sequence[Tensor]], Merging]
) -> Finite:
    """Combine every distinct floating-point tensor, as it is stored, with the experts' of its name.

    Raises:
        MergeError: a tensor is complex, or its merge is not finite.
    """
    return Finite(_combined(base, experts, combine))


@torch.no_grad()
def _combined(
    base: StateDict, experts: Mapping[str, StateDict], combine: Callable[[str, Tensor, Sequence[Tensor]], Merging]
) -> Tensors:
    sources = {"the base": base} | {f"expert {key!r}": expert for key, expert in experts.items()}
    for mergings in _batches(base, experts, combine):
        merged, finite = _finished(mergings)
        for name, tensor in merged.items():
            if name not in finite:
                _require_finite(name, tensor, {source: weights[name] for source, weights in sources.items()})
            yield name, tensor


def _batches(
    base: StateDict, experts: Mapping[str, StateDict], combine: Callable[[str, Tensor, Sequence[Tensor]], Merging]
) -> Iterator[dict[str, Merging]]:
    """A large tensor alone, or several, so that there is work for all threads; what is done already ends a batch."""
    most = min(_MERGED_A_THREAD * torch.get_num_threads(), _MERGED_AT_ONCE)
    batch: dict[str, Merging] = {}
    size = 0
    for name in dict.fromkeys(distinct_names(base).values()):
        tensor = base[name]
        if tensor.is_complex():
            raise MergeError(f"tensor {name!r} is {tensor.dtype}: only real tensors can be merged")
        if not tensor.is_floating_point():
            continue
        if batch and size + tensor.numel() > most:
            yield batch
            batch, size = {}, 0
        batch[name] = combine(name, tensor, [expert[name] for expert in experts.values()])
        size += tensor.numel()
        if not batch[name].parts:
            yield batch
            batch, size = {}, 0
    yield batch


def _finished(mergings: dict[str, Merging]) -> tuple[dict[str, Tensor], set[str]]:
    """The merged tensors, which are taken out, and the names of those that are known to be finite."""
    finite = {name for name, merging in mergings.items() if merging.parts}

    def work_off(part: tuple[str, Callable[[], bool]]) -> None:
        name, merge = part
        if not merge():
            finite.discard(name)

    for_each(work_off, [(name, part) for name, merging in mergings.items() for part in merging.parts])
    merged = {name: merging.tensor for name, merging in mergings.items()}
    mergings.clear()  # so that nothing else sees the memory of a merged tensor
    return merged, finite


@torch.no_grad()
def copy_tensors(state_dict: StateDict, base: StateDict, source: str) -> Tensors:
    """Copy all distinct tensors, the integer ones too.

    Args:
        state_dict: What is copied; it fits the base.
        base: Tells which tensors are tied.
        source: What `state_dict` is, for messages.

    Raises:
        MergeError: a tensor is not finite.
    """
    for name in dict.fromkeys(distinct_names(base).values()):
        original = state_dict[name]
        copied = original.detach().clone(memory_format=torch.contiguous_format)
        _require_finite(name, copied, {source: original})
        yield name, copied


def _require_finite(name: str, merged: Tensor, inputs: Mapping[str, Tensor]) -> None:
    """If not all values of the merged tensor are finite, say which inputs already had such values."""
    if is_finite(merged):
        return
    culprits = [source for source, tensor in inputs.items() if not is_finite(tensor)]
    cause = (
        f"it already is so in {' and '.join(culprits)}"
        if culprits
        else f"though all inputs are finite: the merge is too large for {merged.dtype}"
    )
    raise MergeError(f"merged tensor {name!r} holds NaN or Inf: {cause}")
