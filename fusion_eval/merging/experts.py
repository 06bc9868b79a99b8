"""The experts a method is given: found by name, read once, and checked to fit the base."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_eval.errors import MergeError, suggest
from fusion_eval.merging.mismatch import describe_mismatch
from fusion_eval.merging.state_dict import StateDict

__all__ = ["read_expert", "read_experts"]


def read_experts(base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, StateDict]:
    """All experts in the order of their names, so that the order they are given in cannot change a rounding error.

    Raises:
        MergeError: there is no expert, or one does not fit the base.
    """
    if not experts:
        raise MergeError("there is no expert to merge: give at least one")
    return {name: read_expert(name, base, experts) for name in sorted(experts)}


def read_expert(name: str, base: StateDict, experts: Mapping[str, StateDict]) -> StateDict:
    """One expert.

    Raises:
        MergeError: no expert has this name, or its keys, shapes or kinds of number are not those of the base.
    """
    if name not in experts:
        raise MergeError(f"there is no expert {name!r}{suggest(name, experts)}")
    expert = experts[name]
    if mismatch := describe_mismatch(expert, base):
        raise MergeError(f"expert {name!r} does not fit the base: {mismatch}")
    return expert
