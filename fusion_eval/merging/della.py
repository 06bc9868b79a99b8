"""DELLA: drop task-vector values at random, the small ones more often, then elect signs and average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.chance import drawing
from fusion_eval.merging.consensus import Consensus, combine, require_consensus
from fusion_eval.merging.hyperparameters import require_density, require_finite, require_seed, require_share
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["Della"]


@dataclass(frozen=True)
class Della(TaskVectorMethod):
    """Drop and rEscaLe via sampLing with mAgnitude (arXiv 2406.11617).

    Drop (MagPrune): in every row of a weight the values of a task vector are ranked by magnitude, `r = 0` the largest
    of `n`, and dropped with the probability `p_r = p - window / 2 + window * r / (n - 1)`, where `p = 1 - density`, so
    that `p` is their mean; a row of one value has `p` itself. What is kept is divided by `1 - p_r`, so that its
    expectation stays. Elect and fuse: as TIES does after its trimming. Merge: `base + scaling *` the fused vector.

    A row is what leads to one output: the first axis counts rows, the others are one; a vector is one row. In the
    authors' code, a fork of mergekit, and in mergekit, `epsilon` is half of `window`; mergekit's `rescale` restores the
    L1 norm of each tensor instead of the expectation.

    Attributes:
        scaling: The scaling coefficient of the fused task vector, lambda in the paper.
        density: The mean probability to be kept, in (0, 1].
        window: How much likelier the smallest value of a row is dropped than its largest, epsilon in the paper; 0 is
            DARE. All probabilities to be kept, `density -+ window / 2`, lie in (0, 1]. The authors' example
            drops 0.3 with a window of 0.14.
        consensus: "ties" elects a sign and takes the mean of those that agree, as the paper does; "sum" adds the task
            vectors, as mergekit's `della_linear` does.
        seed: Of the drops. Equal seeds give equal bits, whatever else the machine does.
        weights: Expert name to its weight, which multiplies its task vector; 1 for those not named.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    density: float = 0.5
    window: float = 0.2
    consensus: Consensus = "ties"
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_share(self, "window")
        if not self.window / 2 < self.density <= 1 - self.window / 2:
            raise ConfigError(
                f"Della: density {self.density} -+ window / 2 must be probabilities in (0, 1], got window {self.window}"
            )
        require_consensus(self)
        require_seed(self)
        require_weights(self)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Drop, elect, fuse; see `TaskVectorMethod`. Takes several times one tensor of every expert."""
        weights = expert_weights(self.weights, experts)
        uniform = drawing(self.seed, base, experts)

        def merge(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            keep = self._probabilities(vectors)
            kept = uniform(name, stacked) < keep
            return combine(vectors * kept / keep, self.consensus, weights)  # NaN stays, to be found

        return merge

    def _probabilities(self, vectors: Tensor) -> Tensor:
        """Of each value of `n` task vectors, shape `(n, ...)`, to be kept."""
        rows = vectors.abs().flatten(2) if vectors.ndim > 2 else vectors.abs().view(len(vectors), 1, -1)
        order = rows.argsort(dim=-1, stable=True)
        last = rows.shape[-1] - 1
        steps = (torch.arange(last + 1, dtype=rows.dtype, device=rows.device) - last / 2) / max(1, last)
        by_rank = (self.density + self.window * steps).expand_as(rows)
        return torch.empty_like(rows).scatter_(-1, order, by_rank).view(vectors.shape)
