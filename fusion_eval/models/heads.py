"""Heads: what turns the features of a backbone into the outputs of one task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fusion_eval.errors import CheckpointError
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict

__all__ = ["LinearHead"]


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on disk.

    Attributes:
        path: A checkpoint, as `load_state_dict` takes it, of `weight`, shape `(classes, features)`, and perhaps `bias`,
            shape `(classes,)`, and nothing else.
        prefix: What the names of the two begin with in a checkpoint of more than the head: "fc." in a ResNet of
            torchvision.
    """

    path: str
    prefix: str = ""

    def load(self) -> nn.Linear:
        """Read it.

        Returns:
            A float32 layer from `(n, features)` to `(n, classes)`.

        Raises:
            CheckpointError: it cannot be read, or is no linear layer.
        """
        stored = load_state_dict(self.path)
        cut = len(self.prefix)
        state_dict = {name[cut:]: tensor for name, tensor in stored.items() if name.startswith(self.prefix)}
        if "weight" not in state_dict or state_dict["weight"].dim() != 2:
            place = f"{self.path}, below the prefix {self.prefix!r}" if self.prefix else self.path
            raise CheckpointError(f"{place}: a linear head is `weight` (classes, features) and perhaps `bias`")
        classes, features = state_dict["weight"].shape
        head = nn.Linear(features, classes, bias="bias" in state_dict)
        head.load_state_dict(fit_state_dict(state_dict, head.state_dict(), self.path))
        return head
