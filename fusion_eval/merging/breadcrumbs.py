"""Model Breadcrumbs: of each layer's task vector neither the smallest values nor the outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.consensus import Consensus, combine, require_consensus
from fusion_eval.merging.hyperparameters import require_density, require_finite, require_share
from fusion_eval.merging.ranks import at_ranks
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["Breadcrumbs"]


@dataclass(frozen=True)
class Breadcrumbs(TaskVectorMethod):
    """Model Breadcrumbs (arXiv 2312.06795): `base + scaling * sum_t (mask_t * (expert_t - base))`.

    Of the `n` values of a tensor of a task vector the `floor(outliers * n)` largest magnitudes are masked as outliers;
    of the others the `max(1, floor(density * n))` largest stay, with all that equal the smallest or the largest of
    them, and the rest is masked. The paper names the two thresholds by their quantiles: its beta is
    `1 - density - outliers`, its gamma `1 - outliers`. The authors' code does this to each row of a matrix by itself,
    mergekit to each tensor, as here.

    Attributes:
        scaling: The scaling coefficient of the combined task vector, alpha in the paper.
        density: The share of each tensor that is kept, in (0, 1]; the authors search 0.05 to 0.2.
        outliers: The share of each tensor that is masked for being too large, in [0, 1 - density]; the authors search
            0.001 to 0.01.
        consensus: "sum" adds the task vectors, as the paper does; "ties" elects a sign and takes the mean of those
            that agree, as mergekit's `breadcrumbs_ties` does with `normalize: true`.
        weights: Expert name to its weight, which multiplies its task vector; 1 for those not named.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 0.3
    density: float = 0.1
    outliers: float = 0.01
    consensus: Consensus = "sum"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_share(self, "outliers")
        if self.density + self.outliers > 1 + 1e-9:  # 0.9 + 0.1 may be rounded up
            raise ConfigError(
                f"Breadcrumbs: density {self.density} and outliers {self.outliers} are more than 1 together"
            )
        require_consensus(self)
        require_weights(self)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Mask and combine; see `TaskVectorMethod`. Takes a few times one tensor of every expert."""
        weights = expert_weights(self.weights, experts)

        def merge(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            masked = torch.stack([vector * self._mask(vector) for vector in vectors])  # NaN stays, to be found
            return combine(masked, self.consensus, weights)

        return merge

    def _mask(self, vector: Tensor) -> Tensor:
        """Which values stay, shape as given, bool."""
        sizes = vector.abs()
        count = sizes.numel()
        kept = max(1, int(self.density * count))
        end = max(kept, count - int(self.outliers * count))
        smallest, largest = at_ranks(sizes.flatten().clone(), end - kept, end - 1)
        return (sizes >= smallest) & (sizes <= largest)
