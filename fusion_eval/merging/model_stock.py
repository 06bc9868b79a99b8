"""Model Stock: how far to go from the base to the mean, told by the angle between the experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from fusion_eval.errors import MergeError
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.geometry import direction, inner
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, merge_whole_tensors

__all__ = ["ModelStock"]

_SINGULAR = 1e-6


@dataclass(frozen=True)
class ModelStock(MergingMethod):
    """Model Stock (arXiv 2403.19522): `t * mean + (1 - t) * base`, with a ratio `t` of each tensor's own.

    `t = n * c / (1 + (n - 1) * c)`, where `c` is the mean cosine of the angles between the task vectors of the `n`
    experts, pair by pair (for more than two the mean is mergekit's reading). Experts that agree (`c = 1`) give their
    mean, orthogonal ones the base; the mean of experts that point apart (`c < 0`) lies beyond the base, and is left as
    far as the formula says. Where the task vectors add up to 0 (`c = -1 / (n - 1)`, the formula's pole) it is the base,
    as in mergekit. A tensor that an expert left as it was has a cosine of 0 with all others.

    The method was made for experts of one task with different seeds; it has no hyper-parameter.
    """

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of one tensor of every expert in float64, twice.

        Raises:
            MergeError: there are fewer than two experts, so no angle.
        """
        experts = read_experts(base, experts)
        if len(experts) < 2:
            raise MergeError(f"Model Stock needs the angle between two experts or more, got {', '.join(experts)} alone")

        def interpolate(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked.double() - tensor.double()
            ratio = _ratio(direction(vectors.reshape(len(vectors), -1)))
            return (tensor + ratio * vectors.mean(dim=0)).to(tensor.dtype)

        return merge_whole_tensors(base, experts, interpolate)


def _ratio(directions: Tensor) -> Tensor:
    """`t` of task vectors' directions, shape `(n, d)`: 0-d."""
    count = len(directions)
    cosines = [inner(one, other).squeeze() for one, other in combinations(directions, 2)]
    cosine = torch.stack(cosines).mean().clamp(-1, 1)
    below = 1 + (count - 1) * cosine
    return (count * cosine / below).masked_fill(below.abs() < _SINGULAR, 0)
