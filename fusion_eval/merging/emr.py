"""EMR-Merging: one unified task vector, and for every task a mask and a scale of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion_eval.merging.consensus import agrees
from fusion_eval.merging.experts import read_expert, read_experts
from fusion_eval.merging.geometry import absolute_sum
from fusion_eval.merging.method import MergingMethod, PerTaskMethod
from fusion_eval.merging.state_dict import StateDict, floating_names, wide
from fusion_eval.merging.tensors import Tensors, merge_tensors

__all__ = ["EmrMerging"]


@dataclass(frozen=True)
class EmrMerging(PerTaskMethod):
    """Elect, Mask and Rescale (arXiv 2405.17461). It has no hyper-parameter.

    Elect: the unified vector has in each place the sign of the sum of the task vectors and the largest magnitude among
    those of that sign; 0 where the two signs weigh exactly the same (the authors' code elects minus there). Mask: of
    it, the model for a task keeps the places where its own task vector has that sign. Rescale: what is kept is
    multiplied by `sum |v_t| / sum |kept|`, over all parameters, so that it is as large as the task vector was. A task
    adds one bit a parameter and one number to the unified model.

    The authors' code for 30 ViTs rescales like this. Their code for 8 ViTs and for GLUE, and FusionBench's, which has
    it from there, puts the mean of each tensor in the place of its sum, so that a bias counts as much as a matrix: the
    same where all tensors are of one size, else some percent more or less (in `tests/oracles`, -2 % to +4 %).

    For a task of no expert the model is the base plus the unified vector.
    """

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """The base plus the unified vector; see `MergingMethod`."""
        return merge_tensors(base, read_experts(base, experts), lambda _, ours, theirs: ours + _unify(theirs - ours))

    def variant(self, expert: str) -> MergingMethod:
        """The model for the task of this expert."""
        return _Rescaled(expert)


@dataclass(frozen=True)
class _Rescaled(MergingMethod):
    expert: str

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        read = read_experts(base, experts)
        read_expert(self.expert, base, read)  # for its message
        own = list(read).index(self.expert)
        scale = _scale(base, read, own)

        def recover(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            return tensor + scale * _keep(stacked - tensor, own)

        return merge_tensors(base, read, recover)


@torch.no_grad()
def _scale(base: StateDict, experts: Mapping[str, StateDict], own: int) -> float:
    """The rescaler of one task, called lambda in the paper; 1 where nothing is kept. Takes a pass over all tensors."""
    sizes, kept = [], []
    for name in floating_names(base):
        vectors = torch.stack([wide(expert[name]) for expert in experts.values()]) - wide(base[name])
        sizes.append(absolute_sum(vectors[own]))
        kept.append(absolute_sum(_keep(vectors, own)))
    total = math.fsum(kept)
    scale = math.fsum(sizes) / total if total else 1.0
    return scale if math.isfinite(scale) else 1.0  # which tensor holds NaN is found when it is merged


def _keep(vectors: Tensor, own: int) -> Tensor:
    """What one task keeps of the unified vector: shape `(n, ...)` to `(...)`."""
    unified = _unify(vectors)
    return unified * (vectors[own] * unified > 0)


def _unify(vectors: Tensor) -> Tensor:
    """The unified vector of task vectors: shape `(n, ...)` to `(...)`."""
    return vectors.sum(dim=0).sign() * (vectors.abs() * agrees(vectors)).amax(dim=0)
