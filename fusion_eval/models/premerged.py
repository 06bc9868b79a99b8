"""A merge that somebody else made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.method import StateDict
from fusion_eval.merging.tensors import copy_tensors
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A merged checkpoint that lies on disk, by mergekit for instance, evaluated as it is. Reads no expert.

    Attributes:
        path: As `load_state_dict` takes it; its tensors are those of the base.
    """

    path: str

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Read it; see `MergingMethod`.

        Raises:
            CheckpointError: it cannot be read, or does not fit the base.
            MergeError: a tensor is not finite.
        """
        return copy_tensors(fit_state_dict(load_state_dict(self.path), base, self.path), base, self.path)
