"""WiSE-FT: between the base and one expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_expert
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, merge_tensors

__all__ = ["WiseFt"]


@dataclass(frozen=True)
class WiseFt(MergingMethod):
    """Weight-space ensemble of the base and one expert (arXiv 2109.01903).

    `(1 - scaling) * base + scaling * expert`: what fine-tuning learnt, without all it forgot.

    Attributes:
        name: Which of the experts. Only this one is read.
        scaling: The mixing coefficient, called alpha in the paper: 0 is the base, 1 the expert.

    Raises:
        ConfigError: `scaling` is not a finite number.
    """

    name: str
    scaling: float = 0.5

    def __post_init__(self) -> None:
        require_finite(self, "scaling")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`.

        Raises:
            MergeError: no expert has this name (the message lists those there are), or it does not fit the base.
        """

        def interpolate(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            return (1 - self.scaling) * tensor + self.scaling * stacked[0]

        return merge_tensors(base, {self.name: read_expert(self.name, base, experts)}, interpolate)
