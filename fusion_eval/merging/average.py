"""The plain mean of the experts' weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.method import StateDict
from fusion_eval.merging.tensors import merge_tensors

__all__ = ["Average"]


@dataclass(frozen=True)
class Average:
    """The mean of the experts, each weighing the same: the "uniform soup" of arXiv 2203.05482, section 2.

    The base gives only its dtypes and its integer tensors. It is task arithmetic with a scaling of 1 / experts.
    """

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge; see `MergingMethod`."""
        return merge_tensors(base, read_experts(base, experts), lambda _name, _base, stacked: stacked.mean(dim=0))
