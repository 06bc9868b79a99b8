"""The model that is evaluated: merged weights, and a head for each task that has one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

__all__ = ["MergedModel"]


class MergedModel(nn.Module):
    """A backbone that all tasks share, with one head a task beside it.

    Args:
        backbone: Holds the merged weights.
        heads: Task name to the module that takes the backbone's output. They are no submodules (task names may hold
            dots, and heads are not merged): whoever moves the model moves the head it uses.
        write: Writes the weights for an expert's task, or those for all other tasks (None), into the backbone, where a
            merge is not the same for every task.
        experts: The experts that `write` knows.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: dict[str, nn.Module],
        write: Callable[[str | None], None] | None = None,
        experts: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self._write = write
        self._experts = experts
        self._written_for: str | None = None

    def adapt(self, expert: str) -> None:
        """Become the model for the task of this expert, if the merge has one; else the model for all other tasks."""
        wanted = expert if expert in self._experts else None
        if self._write is not None and wanted != self._written_for:
            self._write(wanted)
            self._written_for = wanted

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the backbone returns for these arguments: logits, features, or a mapping that holds either."""
        return self.backbone(*args, **kwargs)
