"""The mean of the experts' weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import StateDict
from fusion_eval.merging.tensors import merge_tensors

__all__ = ["Average"]


@dataclass(frozen=True)
class Average:
    """The mean of the experts, each weighing the same: the "uniform soup" of arXiv 2203.05482, section 2.

    Attributes:
        scaling: How far to go from the base (0) to the mean (1, exactly), or beyond, so that a sweep over scaling
            coefficients can include the average. It is task arithmetic with a scaling of `scaling / experts`.

    Raises:
        ConfigError: `scaling` is not a finite number.
    """

    scaling: float = 1.0

    def __post_init__(self) -> None:
        require_finite(self, "scaling")

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge; see `MergingMethod`."""

        def move(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            mean = stacked.mean(dim=0)
            return mean if self.scaling == 1 else tensor + self.scaling * (mean - tensor)

        return merge_tensors(base, read_experts(base, experts), move)
