"""Task arithmetic: the base plus the scaled sum of the task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import StateDict
from fusion_eval.merging.tensors import merge_tensors

__all__ = ["TaskArithmetic"]


@dataclass(frozen=True)
class TaskArithmetic:
    """Learning by addition (arXiv 2212.04089, sections 2 and 4): `base + scaling * sum_t (expert_t - base)`.

    Attributes:
        scaling: The scaling coefficient, any finite number; 0 is the base, a negative one forgets the tasks. The
            paper finds 0.3 to 0.4 best for 8 vision tasks; about 1 / experts is the average.

    Raises:
        ConfigError: `scaling` is not a finite number.
    """

    scaling: float = 0.3

    def __post_init__(self) -> None:
        require_finite(self, "scaling")

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge; see `MergingMethod`."""

        def add(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            return tensor + self.scaling * (stacked - tensor).sum(dim=0)

        return merge_tensors(base, read_experts(base, experts), add)
