"""Task arithmetic: the base plus the scaled sum of the task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fusion_eval.merging.consensus import weighted_sum
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Sum, apply_sum
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["TaskArithmetic"]


@dataclass(frozen=True)
class TaskArithmetic(TaskVectorMethod):
    """Learning by addition (arXiv 2212.04089): `base + scaling * sum_t w_t * (expert_t - base)`.

    Attributes:
        scaling: The scaling coefficient, any finite number; 0 is the base, a negative one forgets the tasks. 0.3
            is usual for 8 vision tasks (as in AdaMerging's and EMR's comparisons); 1 / experts is the average.
        weights: Expert name to its weight, which multiplies its task vector; 1 for those not named.

    Raises:
        ConfigError: `scaling` or a weight is not a finite number.
    """

    scaling: float = 0.3
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_weights(self)

    apply = staticmethod(apply_sum)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Sum:
        """The weighted sum; see `TaskVectorMethod`."""
        weights = expert_weights(self.weights, experts)
        return lambda _name, ours, theirs: weighted_sum((expert - ours for expert in theirs), weights)
