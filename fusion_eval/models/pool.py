"""The models a merge is made from: one architecture, the base, the experts, and the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fusion_eval.errors import ConfigError
from fusion_eval.merging import MergingMethod, PerTaskMethod, Recalibrated
from fusion_eval.merging.audit import Audit, audit
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.stream import Integers, finished
from fusion_eval.models.architecture import build_unfilled, form_of, put
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import stored_names
from fusion_eval.models.heads import LinearHead
from fusion_eval.models.hub import local_path
from fusion_eval.models.merged import MergedModel
from fusion_eval.models.progress import shown
from fusion_eval.models.saving import MergeWriter, saving, saving_together
from fusion_eval.models.stored import StoredExperts, open_weights
from fusion_eval.models.variants import Variants

__all__ = ["ModelPool"]

_DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelPool:
    """Where the weights are, and in which form they are merged.

    Attributes:
        architecture: Builds the backbone, with any weights; in YAML a node with `_partial_: true`.
        base: Checkpoint of the pretrained backbone, as `load_state_dict` takes it.
        experts: Expert name to the checkpoint of the backbone fine-tuned from `base`, or to a LoRA adapter that PEFT
            saved.
        heads: Task name to the head that was trained for it.
        dtype: What merged weights are rounded to: "float32", "bfloat16", "float16" or "float64"; None: the base's.
        integers: "base" copies integer tensors (step counters, quantised weights) from the base, "average" takes their
            rounded mean over the experts.
        leave_out: Names of tensors, as stored, that base and experts may hold beyond the backbone; `*` stands for
            anything, as in "pooler.*" or "fc.*". What lies outside of a prefix of the backbone ("vit.") needs no
            mention.

    Raises:
        ConfigError: `dtype` or `integers` is unknown, or `leave_out` is no list.
    """

    architecture: Callable[[], nn.Module]
    base: str
    experts: dict[str, str]
    heads: dict[str, LinearHead] = field(default_factory=dict)
    dtype: str | None = None
    integers: Integers = "base"
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ConfigError(f"ModelPool: dtype must be null or one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.integers not in ("base", "average"):
            raise ConfigError(f'ModelPool: integers must be "base" or "average", got {self.integers!r}')
        if isinstance(self.leave_out, str):
            raise ConfigError(f"ModelPool: leave_out must be a list of names, got {self.leave_out!r}")

    def merge(self, method: MergingMethod, save_to: str | None = None, progress: bool = False) -> MergedModel:
        """Build the backbone with the weights that a method makes of the checkpoints, and load the heads.

        A checkpoint is opened when the method asks for it, and read tensor by tensor; each merged tensor goes into the
        backbone, and to disk, as soon as it is made. The backbone keeps the dtype that the architecture was built with.

        Args:
            method: Any of `fusion_eval.merging`, or `Checkpoint`.
            save_to: Where to save the merge too: a `.safetensors` file, or a directory in the form of the base's. Of a
                merge that is not the same for every task, that for each expert's task goes into a directory of its
                name there.
            progress: Whether to show in the terminal how far the merge is.

        Raises:
            CheckpointError: a checkpoint cannot be read or does not fit the architecture, or `save_to` exists already
                or cannot be written.
            ConfigError: `method` is none.
            MergeError: the method cannot merge them.
        """
        if not isinstance(method, MergingMethod):
            raise ConfigError(f"model: expected a merging method such as fusion_eval.merging.Average, found {method!r}")
        backbone = build_unfilled(self.architecture)
        expected = form_of(backbone)
        base, experts = self.open(expected)

        @torch.no_grad()
        def write(method: MergingMethod, path: str | Path | None = None) -> None:
            held = backbone.state_dict(keep_vars=True)  # asked for anew: it may be on another device by now
            with self._saving(path, expected) as writer:
                tensors = finished(method, base, experts, self._torch_dtype, self.integers)
                if progress:
                    tensors = shown(tensors, len(held), f"merging by {type(method).__name__}")
                for name, tensor in tensors:
                    put(tensor, held[name])
                    if writer is not None:
                        writer.write(name, tensor)

        if not isinstance(method, PerTaskMethod):
            write(method, save_to)
            return MergedModel(backbone, self._heads(), record=method.record(base, experts))
        if save_to is not None:
            with saving_together(save_to) as folder:
                for expert in experts:
                    write(method.variant(expert), folder / expert)
        write(method)
        variants = Variants(method, frozenset(experts), write)
        return MergedModel(backbone, self._heads(), variants, method.record(base, experts))

    def audit(self, method: MergingMethod | None = None) -> Audit:
        """Look at all checkpoints before they are merged; see `merging.audit`.

        Args:
            method: Which is going to merge them, if that is known.

        Raises:
            CheckpointError: the base cannot be read, or does not fit the architecture.
        """
        base, experts = self.open()
        return audit(base, experts, isinstance(method, Recalibrated), self.integers)

    def open(self, expected: StateDict | None = None) -> tuple[StateDict, Mapping[str, StateDict]]:
        """Base and experts under the names of the architecture, memory-mapped; an expert is opened when asked for.

        Args:
            expected: `state_dict()` of the architecture; None: it is built.

        Raises:
            CheckpointError: the base cannot be read, or does not fit the architecture.
        """
        expected = build_unfilled(self.architecture).state_dict() if expected is None else expected
        base = open_weights(self.base, expected, self.leave_out)
        return base, StoredExperts(self.experts, base, expected, self.leave_out)

    def _saving(self, path: str | Path | None, expected: StateDict) -> AbstractContextManager[MergeWriter | None]:
        if path is None:
            return nullcontext()
        stored = load_state_dict(self.base)
        folder = self.base if self.base.startswith("pkg://") else local_path(self.base)
        return saving(path, folder, stored, stored_names(stored, expected, self.base), self._torch_dtype)

    def _heads(self) -> dict[str, nn.Module]:
        return {task: head.load() for task, head in self.heads.items()}

    @property
    def _torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else getattr(torch, self.dtype)
