"""TIES: trim the task vectors, elect a sign for every parameter, and average those that agree with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.consensus import disjoint_mean
from fusion_eval.merging.hyperparameters import require_density, require_finite
from fusion_eval.merging.ranks import at_ranks_of_slices
from fusion_eval.merging.state_dict import StateDict, floating_names
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, widest
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["Ties"]

_ELEMENTS_AT_ONCE = 2**15  # they stay in the cache


@dataclass(frozen=True)
class Ties(TaskVectorMethod):
    """TrIm, Elect Sign & merge (arXiv 2306.01708).

    Trim: of each task vector of `d` parameters the `max(1, floor(density * d))` largest magnitudes stay, the others
    become 0; all that equal the smallest one kept stay as well. Elect: the sign of the sum of the trimmed task
    vectors, for each parameter. Merge: `base + scaling *` the mean of the values that are not 0 and have that sign.
    Where the two signs weigh exactly the same none is elected, and the base stays (the authors' code elects the sign
    that most parameters have). The authors' code keeps one parameter more.

    Attributes:
        scaling: The scaling coefficient, called lambda in the paper; 1 in the authors' example.
        density: The share of parameters kept, in (0, 1]; 0.2 in the authors' example (their K, in percent, is 20).
        trim: "global" keeps the largest of the whole task vector, as the paper does; "tensor" keeps the same share of
            every tensor, as mergekit does, so that no layer is trimmed away.
        weights: Expert name to its weight, which multiplies its trimmed task vector in the vote for a sign and in the
            mean; 1 for those not named.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    density: float = 0.2
    trim: Literal["global", "tensor"] = "global"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_weights(self)
        if self.trim not in ("global", "tensor"):
            raise ConfigError(f'Ties: trim must be "global" or "tensor", got {self.trim!r}')

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Trim, elect, merge; see `TaskVectorMethod`. Goes through the experts twice before."""
        weights = expert_weights(self.weights, experts)
        smallest_kept = self._smallest_kept(base, experts)

        def merge(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            kept = vectors.abs().ge_(smallest_kept[name].to(vectors.dtype))  # 1 or 0: 10 times as fast as to select
            return disjoint_mean(vectors.mul_(kept), weights)  # NaN stays, to be found in the result

        return merge

    def _smallest_kept(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """For each tensor that is merged, the smallest magnitude each expert keeps in it: shape `(experts, 1)`."""
        names = floating_names(base)
        trimmed_together = [names] if self.trim == "global" else [[name] for name in names]
        precision = {name: widest([base[name], *(expert[name] for expert in experts.values())]) for name in names}
        found: dict[str, Tensor] = {}
        for group in trimmed_together:
            wide = {name: precision[name] for name in group}
            limits = [[_smallest_of_largest(self.density, base, expert, wide)] for expert in experts.values()]
            found |= dict.fromkeys(group, torch.tensor(limits, dtype=torch.float64))
        return found


def _smallest_of_largest(share: float, base: StateDict, expert: StateDict, wide: Mapping[str, torch.dtype]) -> float:
    """Of the given share of largest magnitudes of the task vector within some tensors, the smallest. Exact, in O(d).

    The tensors come with the dtypes they are merged in, so that a magnitude is the same number here and there.
    """
    count = sum(base[name].numel() for name in wide)
    if not count:
        return 0.0
    return at_ranks_of_slices(partial(_magnitudes, base, expert, wide), count, count - max(1, int(share * count)))[0]


@torch.no_grad()
def _magnitudes(base: StateDict, expert: StateDict, wide: Mapping[str, torch.dtype], step: int) -> Iterator[Tensor]:
    """Of every step-th parameter of the task vector within some tensors, slice by slice: each flat."""
    for name, dtype in wide.items():
        sources = (expert[name].flatten()[::step], base[name].flatten()[::step])
        for theirs, ours in zip(*(torch.split(source, _ELEMENTS_AT_ONCE) for source in sources), strict=True):
            yield (theirs.to(dtype) - ours.to(dtype)).abs_()
