"""A merge that somebody else made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, copy_tensors
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint(MergingMethod):
    """A merged checkpoint that lies on disk, by mergekit for instance, evaluated as it is. Reads no expert.

    Attributes:
        path: As `load_state_dict` takes it; its tensors are those of the base.
    """

    merges: ClassVar[bool] = False
    path: str

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Read it; see `MergingMethod`.

        Raises:
            CheckpointError: it cannot be read, or does not fit the base.
            MergeError: a tensor is not finite.
        """
        return copy_tensors(fit_state_dict(load_state_dict(self.path), base, self.path), base, self.path)
