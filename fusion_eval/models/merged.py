"""The model that is evaluated: merged weights, and a head for each task that has one."""

from __future__ import annotations

from typing import Any

from torch import nn

from fusion_eval.models.variants import Variants

__all__ = ["MergedModel"]


class MergedModel(nn.Module):
    """A backbone that all tasks share, with one head a task beside it.

    Args:
        backbone: Holds the merged weights.
        heads: Task name to the module that takes the backbone's output. They are no submodules (task names may hold
            dots, and heads are not merged): whoever moves the model moves the head it uses.
        variants: What writes the weights for one task into the backbone, where a merge differs between tasks.
        record: What the report should say of the merge: the calibration data it used, what it learnt from it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: dict[str, nn.Module],
        variants: Variants | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.variants = variants
        self.record = record or {}

    def adapt(self, expert: str) -> None:
        """Become the model for this expert's task, where the merge is not the same for every task."""
        if self.variants is not None:
            self.variants.adapt(expert)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the backbone returns for these arguments: logits, features, or a mapping that holds either."""
        return self.backbone(*args, **kwargs)
