"""What a merging method is: base and expert state dicts in, one merged state dict out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["MergingMethod", "StateDict"]

StateDict = Mapping[str, Tensor]
"""Tensor names to tensors, as `nn.Module.state_dict()` returns them."""


@runtime_checkable
class MergingMethod(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters, called with state dicts that lie in memory.

    Every method of this package merges the floating-point tensors, 0-d ones included, in float32 (float64 where an
    input has float64), and rounds once, to the dtype of the base. Integer and boolean tensors (step counters, masks,
    quantised weights) have no meaningful combination: they are the base's. Weights that are tied in `base`, two names
    for one memory, are one tensor: merged once, and tied in the result. The order of keys and of experts is immaterial.
    """

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge.

        Args:
            base: The pretrained weights every expert was fine-tuned from.
            experts: Expert name to its weights: the same keys and shapes as `base`. The mapping may be lazy: a
                checkpoint is read when its item is asked for, so a method that needs one expert reads one.

        Returns:
            New tensors (never views of the arguments) under the keys of `base`, in its order, with its dtypes.

        Raises:
            MergeError: keys or shapes differ, or a merged tensor is not finite; the message names the tensors.
        """
        ...
