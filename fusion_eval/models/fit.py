"""Make a state dict fit an architecture: recognise a prefix, fill in tied weights, name whatever else is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.merging.mismatch import describe_mismatch
from fusion_eval.merging.state_dict import StateDict, distinct_names

__all__ = ["fit_state_dict"]


def fit_state_dict(state_dict: StateDict, expected: StateDict, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names an architecture expects.

    A checkpoint often holds the architecture under one prefix: "module." of DDP, "_orig_mod." of `torch.compile`,
    "model." of a LightningModule, "backbone." beside a head. If a prefix covers more of the expected names than no
    prefix does, it is taken off, and what lies outside of it belongs to other parts of a larger model and is left out.
    Without a prefix, and below it, nothing is left out: every tensor must be expected. A tensor that is tied in
    `expected` may be stored under any of its names.

    Args:
        state_dict: What was read.
        expected: `state_dict()` of the architecture; tied names are those whose tensors share memory.
        source: Where it was read from, for messages.

    Returns:
        The keys of `expected` in its order; tensors as stored, shared where names are tied.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of another shape or kind of number; several prefixes fit
            equally well; names that are tied hold different values.

    Example:
        >>> import torch
        >>> stored = {"backbone.weight": torch.ones(2), "head.bias": torch.zeros(3)}
        >>> fit_state_dict(stored, {"weight": torch.zeros(2)}, "last.ckpt")
        {'weight': tensor([1., 1.])}
    """
    prefix = _prefix(state_dict, expected, source)
    below = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    first_of = distinct_names(expected)
    stored = {first: below[name] for name, first in first_of.items() if name in below}
    filled = {name: stored[first] for name, first in first_of.items() if first in stored} | below
    if mismatch := describe_mismatch(filled, expected):
        place = f"{source}, below the prefix {prefix!r}" if prefix else source
        raise CheckpointError(f"{place}: the tensors do not fit the architecture: {mismatch}")
    return {name: stored[first] for name, first in first_of.items()}


def _prefix(state_dict: StateDict, expected: StateDict, source: str) -> str:
    covered = Counter(prefix for name in state_dict for prefix, rest in _splits(name) if rest in expected)
    best = [prefix for prefix, count in covered.items() if count == max(covered.values())]
    if "" in best or not best:
        return ""
    if len(best) > 1:
        raise CheckpointError(f"{source}: the architecture fits below several prefixes: {', '.join(sorted(best)[:5])}")
    return best[0]


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    parts = name.split(".")
    for depth in range(len(parts)):
        rest = ".".join(parts[depth:])
        yield name.removesuffix(rest), rest
