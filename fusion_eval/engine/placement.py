"""The model where it runs, in the form in which it runs fastest, and the user's model as it was before."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fusion_eval.engine.subject import Subject

__all__ = ["Placement"]

_copied: dict[torch.dtype, tuple[weakref.ref[nn.Module], str, nn.Module]] = {}
"""By precision the model that was copied last, its version then, and the copy."""


@dataclass(frozen=True)
class Placement:
    """In which form a model runs.

    Args:
        channels_last: Whether images lie in memory pixel by pixel, with which convolutions may be faster.
        compile: Whether `torch.compile` is used, or which mode of it.
    """

    channels_last: bool = False
    compile: bool | str = False

    @contextmanager
    def placed(self, subject: Subject, trainer: pl.Trainer) -> Iterator[Subject]:
        """Model and head on the Trainer's device, in its precision and in eval mode.

        Modes and memory formats are restored afterwards. They stay on the device.
        """
        precision = trainer.precision_plugin
        if isinstance(precision, (HalfPrecision, DoublePrecision)):  # they cast in place
            subject = _copy(subject, precision.convert_input(torch.empty(0)).dtype)
        model, head = subject.model, subject.head
        parts = nn.ModuleList([model] if head is None else [model, head])
        modes = {part: part.training for part in parts.modules()}
        precision.convert_module(parts)
        parts.to(trainer.strategy.root_device).eval()
        try:
            with self._in_channels_last(model), self._compiled(subject.backbone):
                yield subject
        finally:
            for part, training in modes.items():
                part.training = training

    def prepare(self, inputs: Any) -> Any:
        """Bring images of a batch into the memory format of the model."""
        return tree_map_only(Tensor, _to_channels_last, inputs) if self.channels_last else inputs

    def eager(self, whole: bool) -> AbstractContextManager[Any]:
        """Leave a batch uncompiled that is not `whole`: another size would be compiled anew, for one batch a task."""
        if not self.compile or whole:
            return nullcontext()
        eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return eager

    @contextmanager
    def _in_channels_last(self, model: nn.Module) -> Iterator[None]:
        if not self.channels_last:
            yield
            return
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            yield
        finally:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @contextmanager
    def _compiled(self, backbone: nn.Module) -> Iterator[None]:
        """What was compiled for one model serves all of its architecture: weights are inputs of the compiled code.

        Not `Module.compile`, which passes over torch's own classes, such as `Sequential`, without a word.
        """
        if not self.compile:
            yield
            return
        own = vars(backbone).get("forward")
        backbone.forward = torch.compile(backbone.forward, mode=None if self.compile is True else self.compile)
        try:
            yield
        finally:
            if own is None:
                del backbone.forward
            else:
                backbone.forward = own


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _copy(subject: Subject, dtype: torch.dtype) -> Subject:
    """A copy in another precision; the model is copied once for all tasks."""
    known = _copied.get(dtype)
    if known is None or known[0]() is not subject.model or known[1] != subject.version:
        _copied.pop(dtype, None)  # before there are two copies
        known = _copied[dtype] = weakref.ref(subject.model), subject.version, _cast(subject.model, dtype)
    return Subject(known[2], None if subject.head is None else _cast(subject.head, dtype))


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose floating-point weights are cast as they are copied: there never is a copy in the old precision."""
    cast: dict[int, Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and type(tensor) in (Tensor, nn.Parameter):
            data = tensor.detach().to(dtype, copy=True)
            cast[id(tensor)] = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
    return copy.deepcopy(module, cast)
