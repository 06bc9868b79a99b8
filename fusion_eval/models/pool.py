"""The models a merge is made from: one architecture, the base, the experts, and the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from fusion_eval.merging.method import MergingMethod, StateDict
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.heads import LinearHead
from fusion_eval.models.merged import MergedModel

__all__ = ["ModelPool"]


@dataclass(frozen=True)
class ModelPool:
    """Where the weights are.

    Attributes:
        architecture: Builds the backbone, with any weights; in YAML a node with `_partial_: true`.
        base: Checkpoint of the pretrained backbone, as `load_state_dict` takes it.
        experts: Expert name to the checkpoint of the backbone fine-tuned from `base`.
        heads: Task name to the head that was trained for it.
    """

    architecture: Callable[[], nn.Module]
    base: str
    experts: dict[str, str]
    heads: dict[str, LinearHead] = field(default_factory=dict)

    def merge(self, method: MergingMethod) -> MergedModel:
        """Build the backbone with the weights that a method makes of the checkpoints, and load the heads.

        A checkpoint is read when the method asks for it. Weights take the dtype that the architecture was built with.

        Args:
            method: Any of `fusion_eval.merging`, or `Checkpoint`.

        Raises:
            CheckpointError: a checkpoint cannot be read, or does not fit the architecture.
            MergeError: the method cannot merge them.
        """
        backbone = self.architecture()
        expected = backbone.state_dict()
        base = fit_state_dict(load_state_dict(self.base), expected, self.base)
        merged = method(base, _Experts(self.experts, expected))
        backbone.load_state_dict(fit_state_dict(merged, expected, f"the result of {method}"))
        return MergedModel(backbone, {task: head.load() for task, head in self.heads.items()})


@dataclass(frozen=True)
class _Experts(Mapping[str, StateDict]):
    """The experts by name, each read from disk when it is asked for, and not kept."""

    paths: Mapping[str, str]
    expected: StateDict

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return fit_state_dict(load_state_dict(self.paths[name]), self.expected, self.paths[name])

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
