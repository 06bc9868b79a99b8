"""Methods of the form `base + scaling * vector`: they make the vector, the rest is the same for all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor

from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.memory import process_memory
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict, identity_of
from fusion_eval.merging.tensors import Merging, Rule, Sum, Tensors, apply_rule, apply_sum, completed, merge_floating

__all__ = ["TaskVectorMethod"]

_PLAIN = (bool, int, float, str, dict, type(None))  # the repr of an array is abbreviated


class TaskVectorMethod(MergingMethod):
    """Combines the task vectors, `expert - base`, into one merged vector, and adds it to the base, scaled.

    In a sweep over the scaling coefficient the merged vector is the same in every job. So it is kept in the memory of
    the process (see `merging.memory`), whatever it took to make it: trimming, singular values, gradient steps.
    """

    scaling: float

    @staticmethod
    def apply(rule: Any, name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
        """Apply the rule to a tensor; other methods take `apply_sum`, or `apply_to_whole` for a rule that needs all."""
        return apply_rule(rule, name, tensor, theirs)

    @abstractmethod
    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule | Sum:
        """What makes the merged vector of a tensor, for `apply`. It is asked for once a merge, if it is needed at all.

        Args:
            base: The pretrained weights.
            experts: As `read_experts` returns them, in the order of their names.
        """

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes one tensor of every expert, unless the method says more."""
        read = read_experts(base, experts)
        rule = cache(lambda: self.rule(base, read))
        group = self._group(base, read) if process_memory.limit else None

        def add(name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
            if group is None:
                make = rule()  # not in the threads, each of which would make it

                def move(name: str, ours: Tensor, theirs: Any) -> Tensor:
                    return make(name, ours, theirs).mul_(self.scaling).add_(ours)

                return self.apply(move, name, tensor, theirs)
            vector = process_memory.recall(group, name, lambda: completed(self.apply(rule(), name, tensor, theirs)))
            return apply_sum(lambda _, ours, vectors: (self.scaling * vectors[0]).add_(ours), name, tensor, [vector])

        return merge_floating(base, read, add)

    def _group(self, base: StateDict, experts: Mapping[str, StateDict]) -> Hashable | None:
        identities = (identity_of(base), *map(identity_of, experts.values()))
        settings = {name: value for name, value in vars(self).items() if name != "scaling"}
        if None in identities or not all(isinstance(value, _PLAIN) for value in settings.values()):
            return None
        return (type(self), repr(settings), tuple(experts), identities)
