"""The two ends every merge is compared with: the base as it is, and one expert as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_expert
from fusion_eval.merging.method import StateDict
from fusion_eval.merging.tensors import copy_tensors

__all__ = ["Base", "Expert"]


@dataclass(frozen=True)
class Base:
    """The base model, no expert merged in: what a merge must beat. Reads no expert."""

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Copy the base; see `MergingMethod`."""
        return copy_tensors(base, base, "the base")


@dataclass(frozen=True)
class Expert:
    """One expert alone, its integer tensors included: what a merge loses against on that expert's task.

    Attributes:
        name: Which of the experts. Only this one is read.
    """

    name: str

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Copy the expert; see `MergingMethod`.

        Raises:
            MergeError: no expert has this name (the message lists those there are), or it does not fit the base.
        """
        return copy_tensors(read_expert(self.name, base, experts), base, f"expert {self.name!r}")
