"""SCE: select where the experts differ most, weigh them by their energy there, erase minority signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion_eval.merging.consensus import agrees
from fusion_eval.merging.geometry import inner
from fusion_eval.merging.hyperparameters import require_density, require_finite, require_not_negative
from fusion_eval.merging.ranks import at_ranks
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole

__all__ = ["Sce"]


@dataclass(frozen=True)
class Sce(TaskVectorMethod):
    """Select, Calculate and Erase (arXiv 2408.07990, the merging of FuseChat), each tensor on its own.

    Select: of the `m` places where the task vectors have a variance at all, the `max(1, floor(density * m))` of the
    largest stay, and all that equal the smallest one kept; the rest of every task vector becomes 0. Where no place has
    one (one expert, or equal ones) all stay. Calculate: an expert weighs as much as the sum of its squares left.
    Erase: values that oppose the sign of the sum are left out; where the two signs weigh exactly the same none is
    elected, and the base stays. Merge: `base + scaling *` the weighted mean of the others.

    mergekit's `sce` weighs the experts equally where their squares have a mean below 1e-6, as those of small
    fine-tunings do (`equal_below`), gives up on a tensor where `density * m` is below 1, and elects plus where signs
    weigh the same; else the two are equal. The code that the authors published first selects for the weights alone,
    and merges all places.

    Attributes:
        scaling: The scaling coefficient of the merged task vector; the paper has none, which is 1.
        density: The share of places that stay, in (0, 1], called tau in the paper, in percent; `select_topk` in
            mergekit.
        equal_below: The experts weigh the same in a tensor where the means of the squares that each of them has left
            add up to less: 1e-6 in mergekit; 0, never, in the paper.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    density: float = 0.1
    equal_below: float = 0.0
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_not_negative(self, "equal_below")

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Select, calculate, erase; see `TaskVectorMethod`. Takes one tensor of every expert in float64, thrice."""

        def merge(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = (stacked.double() - tensor.double()).reshape(len(stacked), -1)
            selected = vectors * self._places(vectors)  # products, not selections: NaN stays, to be found
            energies = inner(selected, selected)
            if energies.sum() < self.equal_below * tensor.numel():
                energies = torch.ones_like(energies)
            weights = energies * agrees(selected)
            total = weights.sum(dim=0)
            mean = (weights * selected).sum(dim=0) / total.where(total != 0, 1)
            return mean.view(tensor.shape)

        return merge

    def _places(self, vectors: Tensor) -> Tensor:
        """Where the variance over the experts, the first axis, is among the largest: shape `(d,)`, bool."""
        variances = vectors.var(dim=0, correction=0)
        kept = max(1, int(self.density * int(variances.count_nonzero())))
        return variances >= at_ranks(variances.clone(), len(variances) - kept)[0]
