"""LiNeS: what any method adds to the base, scaled by the depth of the layer."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.geometry import absolute_sum
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import MergingMethod, PerTaskMethod
from fusion_eval.merging.state_dict import StateDict, floating_names, wide
from fusion_eval.merging.task_arithmetic import TaskArithmetic
from fusion_eval.merging.tensors import Tensors

__all__ = ["Lines", "relative_depths"]

_BLOCK = re.compile(r"(?:.*?\.)??\d+(?=\.)")  # a name up to the first number between dots


@dataclass(frozen=True)
class Lines(MergingMethod):
    """Layer-increasing Network Scaling (arXiv 2410.17146) of any method that returns one model.

    Shallow layers, which are general, keep near the base; deep ones take what the tasks need. In block `l` of `L`,
    `base + (alpha + beta * (l - 1) / (L - 1)) * (merged - base)`; what is in no block, `alpha`. Blocks are told by
    tensor names, see `relative_depths`.

    Attributes:
        method: What is scaled, itself with a scaling of 1.
        alpha: The scaling of the first block. None takes what the authors' code does for several tasks, the value with
            which the merged task vector is as large as the mean of the task vectors, in the L1 norm: 1 / experts for
            task arithmetic with scaling 1.
        beta: How much more the last block is scaled; to be chosen on validation data.

    Raises:
        ConfigError: `method` is none or makes a model for each task, or a number is not finite.
    """

    method: MergingMethod = field(default_factory=lambda: TaskArithmetic(1.0))
    alpha: float | None = None
    beta: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.method, MergingMethod):
            raise ConfigError(f"Lines: method must be a merging method, such as TaskArithmetic, got {self.method!r}")
        if isinstance(self.method, PerTaskMethod):
            raise ConfigError(f"Lines: {type(self.method).__name__} makes a model for each task, not one")
        if self.alpha is not None:
            require_finite(self, "alpha")
        require_finite(self, "beta")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes what `method` does, and without `alpha` one model more, in float32."""
        depths = relative_depths(base)
        if self.alpha is not None:
            merged, alpha = self.method.stream(base, experts), self.alpha
        else:
            read = read_experts(base, experts)
            whole = dict(self.method.stream(base, read))
            merged, alpha = iter(whole.items()), _alpha(base, read, whole)
        return ((name, _scale(wide(base[name]), tensor, alpha + self.beta * depths[name])) for name, tensor in merged)

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """What `method` says of itself; see `MergingMethod`."""
        return self.method.record(base, experts)


def relative_depths(names: Iterable[str]) -> dict[str, float]:
    """Every tensor name to the place of its block among those of its list, from 0 (first, or in no block) to 1 (last).

    The first number that stands between dots is the block, as in `encoder.layers.3.mlp.weight`. What is before it is
    the list, so that each tower of a model has a depth of its own. Numbers in the name of the list, as the stages of a
    ResNet have them, are digits before the block: `layer1.0`, `layer1.1`, `layer2.0` are one list.

    Example:
        >>> relative_depths(["embed.weight", "h.0.weight", "h.1.mlp.0.weight", "h.2.weight", "norm.weight"])
        {'embed.weight': 0.0, 'h.0.weight': 0.0, 'h.1.mlp.0.weight': 0.5, 'h.2.weight': 1.0, 'norm.weight': 0.0}
    """
    depths = {}
    places: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name in names:
        depths[name] = 0.0
        if block := _BLOCK.match(name):
            places[re.sub(r"\d+", "", block[0])][name] = tuple(int(number) for number in re.findall(r"\d+", block[0]))
    for place_of in places.values():
        order = {place: index for index, place in enumerate(sorted(set(place_of.values())))}
        depths |= {name: order[place] / max(1, len(order) - 1) for name, place in place_of.items()}
    return depths


@torch.no_grad()
def _scale(base: Tensor, merged: Tensor, scaling: float) -> Tensor:
    return base + scaling * (merged - base) if merged.is_floating_point() else merged


@torch.no_grad()
def _alpha(base: StateDict, experts: Mapping[str, StateDict], merged: StateDict) -> float:
    """The L1 norm of the mean of the task vectors over that of the merged one; 0 where that is 0."""
    names = floating_names(base)
    ours = math.fsum(absolute_sum(merged[name] - wide(base[name])) for name in names)
    total = (torch.stack([wide(one[name]) for one in experts.values()]) - wide(base[name]) for name in names)
    return math.fsum(absolute_sum(vectors.sum(dim=0)) for vectors in total) / (len(experts) * ours) if ours else 0.0
