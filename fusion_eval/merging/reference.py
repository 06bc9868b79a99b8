"""The two ends every merge is compared with: the base as it is, and one expert as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fusion_eval.merging.experts import read_expert
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, copy_tensors

__all__ = ["Base", "Expert"]


@dataclass(frozen=True)
class Base(MergingMethod):
    """The base model, no expert merged in: what a merge must beat. Reads no expert."""

    merges: ClassVar[bool] = False

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Copy the base; see `MergingMethod`."""
        return copy_tensors(base, base, "the base")


@dataclass(frozen=True)
class Expert(MergingMethod):
    """One expert alone, its integer tensors included: what a merge loses against on that expert's task.

    Attributes:
        name: Which of the experts. Only this one is read.
    """

    merges: ClassVar[bool] = False
    name: str

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Copy the expert; see `MergingMethod`.

        Raises:
            MergeError: no expert has this name (the message lists those there are), or it does not fit the base.
        """
        return copy_tensors(read_expert(self.name, base, experts), base, f"expert {self.name!r}")
