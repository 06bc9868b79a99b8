"""The mean of the experts' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fusion_eval.errors import MergeError
from fusion_eval.merging.consensus import weighted_sum
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, sum_tensors
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["Average"]


@dataclass(frozen=True)
class Average(MergingMethod):
    """The mean of the experts: with equal weights the "uniform soup" of Model Soups (arXiv 2203.05482).

    Attributes:
        scaling: How far to go from the base (0) to the mean (1, exactly), or beyond, so that a sweep over scaling
            coefficients can include the average. It is task arithmetic with a scaling of `scaling / experts`.
        weights: Expert name to its weight in the mean, `sum_t w_t * expert_t / sum_t w_t`; 1 for those not named.

    Raises:
        ConfigError: `scaling` or a weight is not a finite number.
    """

    scaling: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_weights(self)

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`.

        Raises:
            MergeError: the weights add up to 0.
        """
        read = read_experts(base, experts)
        weights = expert_weights(self.weights, read)
        total = len(read) if weights is None else float(weights.sum())
        if total == 0:
            raise MergeError(f"Average: the weights add up to 0: {dict(self.weights)}")

        def move(_name: str, ours: Tensor, theirs: Sequence[Tensor]) -> Tensor:
            mean = weighted_sum(theirs, weights).div_(total)
            return mean if self.scaling == 1 else ours + self.scaling * (mean - ours)

        return sum_tensors(base, read, move)
