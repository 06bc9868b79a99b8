"""DARE: drop task-vector values at random, rescale the others, and merge what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fusion_eval.merging.chance import drawing
from fusion_eval.merging.consensus import Consensus, combine, require_consensus
from fusion_eval.merging.hyperparameters import require_density, require_finite, require_seed
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["Dare"]


@dataclass(frozen=True)
class Dare(TaskVectorMethod):
    """Drop And REscale (arXiv 2311.03099): `base + scaling * consensus_t(mask_t * vector_t / density)`.

    Each value of a task vector is dropped with the probability `p = 1 - density`, independently of all others, and
    the rest is divided by `1 - p`, so that its expectation stays. mergekit's `rescale` restores the L1 norm that
    each tensor had instead, which is no longer unbiased.

    Attributes:
        scaling: The scaling coefficient of the combined task vector, as in `TaskArithmetic` or, for "ties", `Ties`.
        density: The probability to be kept, in (0, 1], one minus the drop rate. The paper finds that language
            models bear drop rates of 0.9 and even 0.99, large ones most of all.
        consensus: "sum" adds the task vectors, as task arithmetic does; "ties" elects a sign and takes the mean of
            those that agree, as TIES does, the random drop taking the place of its trimming.
        seed: Of the drops. Equal seeds give equal bits, whatever else the machine does.
        weights: Expert name to its weight, which multiplies its task vector; 1 for those not named.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 0.3
    density: float = 0.5
    consensus: Consensus = "sum"
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_consensus(self)
        require_seed(self)
        require_weights(self)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Drop, rescale, combine; see `TaskVectorMethod`. Takes a few times one tensor of every expert."""
        weights = expert_weights(self.weights, experts)
        uniform = drawing(self.seed, base, experts)

        def merge(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            kept = uniform(name, stacked) < self.density
            # Products, not a selection: NaN in a dropped value stays, to be found in the result.
            return combine((stacked - tensor) * kept / self.density, self.consensus, weights)

        return merge
