"""What a method with data is given: samples of each expert's task that are never evaluated, and how a model is run."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fusion_eval.errors import ConfigError
from fusion_eval.merging.memory import process_memory
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict, identity_of

__all__ = ["Batch", "Calibration", "MethodWithData", "measured_on"]

Batch = tuple[Any, Tensor]
"""Inputs of `n` samples, as the model takes them, and their targets, shape `(n,)`."""


@runtime_checkable
class Calibration(Protocol):
    """Calibration data by the name of the expert it belongs to. Nothing is loaded before a method asks.

    Every method raises a `FusionEvalError` where an expert has no data, or only such as is evaluated.
    """

    def backbone(self) -> nn.Module:
        """A fresh backbone with any weights: float32, in eval mode, all parameters requiring gradients."""
        ...

    def batches(self, expert: str, size: int | None = None) -> Iterator[Batch]:
        """The samples of an expert's task, in a seeded order that is the same at every call.

        Args:
            expert: Its name.
            size: Samples a batch, at most; None leaves it to the calibration.
        """
        ...

    def outputs(self, expert: str, model: nn.Module, batch: Batch) -> Tensor:
        """What a backbone, with the head of an expert's task behind it, makes of a batch.

        Returns:
            Shape `(n, ...)`, from which gradients flow back.
        """
        ...

    def logits(self, expert: str, model: nn.Module, batch: Batch) -> Tensor:
        """The same, of a task that chooses one class.

        Returns:
            Logits, shape `(n, classes)`, float32, from which gradients flow back.

        Raises:
            ConfigError: the task is of another kind.
        """
        ...

    def record(self, experts: Iterable[str]) -> dict[str, Any]:
        """What was used for these experts, in values that JSON can hold: split, number of samples, fingerprint."""
        ...

    def identity(self, expert: str) -> Hashable:
        """All that `batches` and `outputs` of an expert depend on, but for the weights of the backbone."""
        ...


class MethodWithData(MergingMethod):
    """A method that measures or learns something on calibration data; a subclass is a dataclass with that field."""

    calibration: Calibration

    def __post_init__(self) -> None:
        if not isinstance(self.calibration, Calibration):
            raise ConfigError(
                f"{type(self).__name__}: calibration must be a fusion_eval.tasks.Calibration, in YAML "
                f"${{calibration}}, got {self.calibration!r:.100}"
            )

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """Which samples were used; see `MergingMethod`."""
        return {"calibration": self.calibration.record(sorted(experts))}


def measured_on(calibration: Calibration, experts: Mapping[str, StateDict], *settings: Hashable) -> Hashable | None:
    """The group, for `Memory.recall`, of what is measured on experts; None where nothing is kept.

    Args:
        calibration: The samples.
        experts: Name to weights.
        settings: What is measured, and all that decides it besides.
    """
    if not process_memory.limit:
        return None
    identities = tuple((name, identity_of(expert)) for name, expert in experts.items())
    if any(identity is None for _, identity in identities):
        return None
    return (*settings, identities, tuple(calibration.identity(name) for name in experts))
