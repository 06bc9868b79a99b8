"""Recalibration: the statistics that BatchNorm keeps, measured again on the merged model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging.calibration import Calibration, MethodWithData
from fusion_eval.merging.method import MergingMethod, PerTaskMethod
from fusion_eval.merging.state_dict import StateDict, distinct_names
from fusion_eval.merging.tensors import Tensors
from fusion_eval.threads import one_thread

__all__ = ["Recalibrated"]


@dataclass(frozen=True)
class Recalibrated(MethodWithData):
    """Any method, and then new BatchNorm statistics (REPAIR, arXiv 2211.08403).

    The activations of a merged model vary less than those of its experts, so averaged statistics do not fit them. All
    running means and variances become the average, over batches, of those that the merged model has on calibration
    samples: on as many batches of every expert's task. Everything else is as `method` leaves it.

    Attributes:
        method: What merges.
        calibration: The samples. Their labels are not used; batches of 32 or more make for good variances.

    Raises:
        ConfigError: `method` or `calibration` is none, or `method` makes a model for each task.
    """

    method: MergingMethod
    calibration: Calibration

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.method, MergingMethod):
            raise ConfigError(f"Recalibrated: method must be a merging method, such as Average, got {self.method!r}")
        if isinstance(self.method, PerTaskMethod):
            raise ConfigError(f"Recalibrated: {type(self.method).__name__} makes a model for each task, not one")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of two models, in float32.

        Raises:
            MergeError: the model has no BatchNorm that keeps statistics.
        """
        backbone = self.calibration.backbone()
        layers = {name: layer for name, layer in backbone.named_modules() if _keeps_statistics(layer)}
        if not layers:
            raise MergeError("Recalibrated: the model has no BatchNorm with statistics; take its method without it")
        merged = dict(self.method.stream(base, experts))
        backbone.load_state_dict({name: merged.get(first, base[name]) for name, first in distinct_names(base).items()})
        with one_thread():
            self._measure(backbone, list(layers.values()), sorted(experts))
        measured = {
            f"{name}.{key}": buffer.cpu() for name, layer in layers.items() for key, buffer in layer.named_buffers()
        }
        yield from (merged | measured).items()

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """Which samples were used, and what the method itself records."""
        return {**self.method.record(base, experts), "recalibration": self.calibration.record(sorted(experts))}

    @torch.no_grad()
    def _measure(self, backbone: nn.Module, layers: list[nn.Module], experts: list[str]) -> None:
        for layer in layers:
            assert isinstance(layer, _BatchNorm)
            layer.reset_running_stats()
            layer.momentum = None  # torch then keeps the plain average of all batches
            layer.train()
        batches = {expert: list(self.calibration.batches(expert)) for expert in experts}
        most = max(map(len, batches.values()))
        for expert, its in batches.items():
            for batch in islice(cycle(its), most):
                self.calibration.outputs(expert, backbone, batch)


def _keeps_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is not None
