"""What a merging method is: base and expert state dicts in, one merged state dict out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.stream import finished

__all__ = ["MergingMethod", "PerTaskMethod"]


class MergingMethod(ABC):
    """A frozen dataclass whose fields are the hyper-parameters. A method of your own defines `stream`.

    Every method of this package merges the floating-point tensors, 0-d ones included, in float32 (float64 where an
    input has float64), and is rounded once, to the dtype of the base unless another is asked for. Integer and boolean
    tensors (step counters, masks, quantised weights) are no matter of a method: whoever collects the stream copies
    them from the base, or averages them. Weights that are tied in `base`, two names for one memory, are one tensor:
    merged once, and tied in the result. The order of keys and of experts is immaterial.

    Attributes:
        merges: Whether it combines the experts, so that they are worth an audit; a copy of one model does not.
    """

    merges: ClassVar[bool] = True

    @abstractmethod
    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Iterator[tuple[str, Tensor]]:
        """Merge tensor by tensor.

        Args:
            base: The pretrained weights every expert was fine-tuned from.
            experts: Expert name to its weights: the same keys and shapes as `base`. The mapping may be lazy: a
                checkpoint is opened when its item is asked for, so a method that needs one expert opens one, and its
                tensors are read from disk when they are used.

        Yields:
            Name and merged tensor, not rounded yet, once for every distinct floating-point tensor; new tensors, never
            views of the arguments.

        Raises:
            MergeError: keys or shapes differ, or a merged tensor is not finite; the message names the tensors.
        """

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """What the report of a merge should say of it, beyond the hyper-parameters, in values that JSON can hold.

        Args:
            base: As it was merged, the same object.
            experts: Likewise.
        """
        return {}

    def __call__(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Merge in memory.

        Returns:
            Tensors under the keys of `base`, in its order, with its dtypes.

        Raises:
            MergeError: as `stream`.
        """
        merged = dict(finished(self, base, experts))
        return {name: merged[name] for name in base}


class PerTaskMethod(MergingMethod):
    """A method that makes one model for tasks it knows nothing of, by `stream`, and another for each expert's task."""

    @abstractmethod
    def variant(self, expert: str) -> MergingMethod:
        """What makes the model for this expert's task."""
