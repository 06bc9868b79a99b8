"""What is evaluated: a model, and the head of a task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from fusion_eval.engine.fingerprint import describe_architecture, fingerprint_config, fingerprint_weights
from fusion_eval.models import MergedModel

__all__ = ["Subject"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model on one task. It is described once, when that is first asked for, and must not change from then on.

    Args:
        model: The model under test.
        head: Of the task, if any.
    """

    model: nn.Module
    head: nn.Module | None = None

    @property
    def backbone(self) -> nn.Module:
        """What does the work: the heads of other tasks do not matter."""
        return self.model.backbone if type(self.model) is MergedModel else self.model

    @cached_property
    def architecture(self) -> str:
        """What the backbone does with its weights: see `describe_architecture`."""
        return describe_architecture(self.backbone)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the weights and the head's, under these names."""
        head = "none" if self.head is None else fingerprint_weights(self.head)
        return {"weights": fingerprint_weights(self.model), "head": head}

    @property
    def version(self) -> str:
        """Another text for other weights or another architecture."""
        return fingerprint_config(self.fingerprints["weights"], self.architecture)
