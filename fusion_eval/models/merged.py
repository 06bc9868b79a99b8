"""The model that is evaluated: merged weights, and a head for each task that has one."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["MergedModel"]


class MergedModel(nn.Module):
    """A backbone that all tasks share, with one head a task beside it.

    Args:
        backbone: Holds the merged weights.
        heads: Task name to the module that takes the backbone's output. They are no submodules (task names may hold
            dots, and heads are not merged): whoever moves the model moves the head it uses.
    """

    def __init__(self, backbone: nn.Module, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the backbone returns for these arguments: logits, features, or a mapping that holds either."""
        return self.backbone(*args, **kwargs)
