"""TIES: trim the task vectors, elect a sign for every parameter, and average those that agree with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.consensus import disjoint_mean
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_density, require_finite
from fusion_eval.merging.method import StateDict
from fusion_eval.merging.ranks import at_ranks
from fusion_eval.merging.tensors import distinct_names, merge_tensors, wide

__all__ = ["Ties"]


@dataclass(frozen=True)
class Ties:
    """TrIm, Elect Sign & merge (arXiv 2306.01708, section 4, algorithm 1).

    Trim: of each task vector of `d` parameters the `max(1, floor(density * d))` largest magnitudes stay, the others
    become 0; all that equal the smallest one kept stay as well. Elect: the sign of the sum of the trimmed task
    vectors, for each parameter. Merge: `base + scaling *` the mean of the values that are not 0 and have that sign.
    Where the two signs weigh exactly the same none is elected, and the base stays.

    Attributes:
        scaling: The scaling coefficient, called lambda in the paper, which takes 1 where no validation data is used.
        density: The share of parameters kept, in (0, 1]; 0.2 in the paper (its k, in percent, is 20).
        trim: "global" keeps the largest of the whole task vector, as the paper does; "tensor" keeps the same share of
            every tensor, as mergekit does, so that no layer is trimmed away.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    density: float = 0.2
    trim: Literal["global", "tensor"] = "global"

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        if self.trim not in ("global", "tensor"):
            raise ConfigError(f'Ties: trim must be "global" or "tensor", got {self.trim!r}')

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge; see `MergingMethod`. Takes the memory of all experts and of two flat task vectors."""
        experts = read_experts(base, experts)
        smallest_kept = self._smallest_kept(base, experts)

        def add(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            small = vectors.abs() < smallest_kept[name].to(vectors.dtype)
            trimmed = vectors.masked_fill(small, 0)  # NaN is not small: it stays, to be found in the result
            return tensor + self.scaling * disjoint_mean(trimmed)

        return merge_tensors(base, experts, add)

    def _smallest_kept(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """For each tensor that is merged, the smallest magnitude each expert keeps in it: shape `(experts, 1)`."""
        names = [name for name in dict.fromkeys(distinct_names(base).values()) if base[name].is_floating_point()]
        trimmed_together = [names] if self.trim == "global" else [[name] for name in names]
        found: dict[str, Tensor] = {}
        for group in trimmed_together:
            limits = [[_largest(self.density, _magnitudes(base, expert, group))] for expert in experts.values()]
            found |= dict.fromkeys(group, torch.tensor(limits, dtype=torch.float64))
        return found


@torch.no_grad()
def _magnitudes(base: StateDict, expert: StateDict, names: Sequence[str]) -> Tensor:
    """Of the task vector within some tensors, flat: shape `(d,)`."""
    return torch.cat([(wide(expert[name]) - wide(base[name])).flatten().abs_() for name in names])


def _largest(share: float, magnitudes: Tensor) -> float:
    """The smallest of the given share of largest values, of shape `(d,)`, which get reordered. Exact, in O(d)."""
    if not len(magnitudes):
        return 0.0
    smaller = len(magnitudes) - max(1, int(share * len(magnitudes)))
    return at_ranks(magnitudes, smaller)[0]
