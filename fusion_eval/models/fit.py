"""Make a state dict fit an architecture: recognise a prefix, fill in tied weights, name whatever else is wrong."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.merging.mismatch import describe_mismatch
from fusion_eval.merging.state_dict import StateDict, distinct_names
from fusion_eval.models.older_names import is_leftover
from fusion_eval.models.prefix import splits

__all__ = ["fit_state_dict", "prefix_of", "stored_names"]


def fit_state_dict(state_dict: StateDict, expected: StateDict, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names an architecture expects.

    A checkpoint often holds the architecture under one prefix: "module." of DDP, "_orig_mod." of `torch.compile`,
    "model." of a LightningModule, "backbone." beside a head. If a prefix covers more of the expected names than no
    prefix does, it is taken off, and what lies outside of it belongs to other parts of a larger model and is left out.
    Without a prefix, and below it, nothing is left out but what older versions of transformers left behind (see
    `fusion_eval.models.older_names`): every tensor must be expected. A tensor that is tied in `expected` may be stored
    under any of its names.

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
    prefix = prefix_of(state_dict, expected, source)
    below = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    below = {name: tensor for name, tensor in below.items() if name in expected or not is_leftover(name, tensor)}
    first_of = distinct_names(expected)
    stored = {first: below[name] for name, first in first_of.items() if name in below}
    filled = {name: stored[first] for name, first in first_of.items() if first in stored} | below
    if mismatch := describe_mismatch(filled, expected):
        place = f"{source}, below the prefix {prefix!r}" if prefix else source
        raise CheckpointError(f"{place}: the tensors do not fit the architecture: {mismatch}")
    return {name: stored[first] for name, first in first_of.items()}


def stored_names(state_dict: StateDict, expected: StateDict, source: str) -> dict[str, str]:
    """Names in the architecture to names in a checkpoint, of all weights that are stored under a name of their own.

    Args:
        state_dict: As `fit_state_dict` takes it.
        expected: Likewise.
        source: Likewise.

    Raises:
        CheckpointError: several prefixes fit equally well.

    Example:
        >>> import torch
        >>> stored = {"backbone.weight": torch.ones(2), "head.bias": torch.zeros(3)}
        >>> stored_names(stored, {"weight": torch.zeros(2)}, "last.ckpt")
        {'weight': 'backbone.weight'}
    """
    prefix = prefix_of(state_dict, expected, source)
    return {name: prefix + name for name in expected if prefix + name in state_dict}


def prefix_of(state_dict: StateDict, expected: StateDict, source: str) -> str:
    """What stands before the names of an architecture in a checkpoint, "" as a rule; arguments as `fit_state_dict`.

    Raises:
        CheckpointError: several prefixes fit equally well.
    """
    covered = Counter(prefix for name in state_dict for prefix, rest in splits(name) if rest in expected)
    best = [prefix for prefix, count in covered.items() if count == max(covered.values())]
    if "" in best or not best:
        return ""
    if len(best) > 1:
        raise CheckpointError(f"{source}: the architecture fits below several prefixes: {', '.join(sorted(best)[:5])}")
    return best[0]
