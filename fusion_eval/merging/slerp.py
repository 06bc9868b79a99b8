"""SLERP: along the arc between two models, instead of the straight line that averages walk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.experts import read_expert
from fusion_eval.merging.geometry import slerp
from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, merge_whole_tensors

__all__ = ["NuSlerp", "Slerp"]


@dataclass(frozen=True)
class Slerp(MergingMethod):
    """Spherical linear interpolation of two models, each tensor one vector; mergekit's `slerp`.

    The formula, of two quaternions, is by Shoemake ("Animating rotation with quaternion curves", SIGGRAPH 1985); see
    `merging.geometry.slerp`. That it may merge models has no paper: it comes from mergekit, whose guide
    (docs/merge_methods.md) names Wikipedia's "Slerp".

    mergekit takes the straight line as soon as the cosine exceeds 0.9995; here the arc is followed to where float32
    ends, which matters as an expert is seldom farther from its base.

    Attributes:
        end: The expert at `t = 1`.
        start: The expert at `t = 0`; None is the base.
        t: How far to go. No other expert than these two is read.

    Raises:
        ConfigError: `t` is not a finite number.
    """

    end: str
    start: str | None = None
    t: float = 0.5

    def __post_init__(self) -> None:
        require_finite(self, "t")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of a few times one tensor of each model, in float64.

        Raises:
            MergeError: no expert has such a name (the message lists those there are), or it does not fit the base.
        """
        ends = [name for name in (self.start, self.end) if name is not None]

        def turn(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            start = tensor if self.start is None else stacked[0]
            merged = slerp(start.double().flatten(), stacked[-1].double().flatten(), self.t)
            return merged.view(tensor.shape).to(tensor.dtype)

        return merge_whole_tensors(base, {name: read_expert(name, base, experts) for name in ends}, turn)


@dataclass(frozen=True)
class NuSlerp(MergingMethod):
    """SLERP of the task vectors of two experts, as mergekit's `nuslerp` with a base model.

    There is no paper: it is what mergekit's guide (docs/merge_methods.md) and code (merge_methods/nuslerp.py) say.
    `base + slerp(start - base, end - base, t)`: the angle between what two experts learnt is wide, where that between
    their weights is tiny.

    Attributes:
        start: The expert at `t = 0`.
        end: The expert at `t = 1`. No other expert than these two is read.
        t: How far to go: mergekit's weights `w_start` and `w_end` are `w_end / (w_start + w_end)` here.
        along: What turns by an angle of its own: the whole "tensor", all its "rows" (the vectors along the last axis),
            or all its "columns" (along the first).

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    start: str
    end: str
    t: float = 0.5
    along: Literal["tensor", "rows", "columns"] = "tensor"

    def __post_init__(self) -> None:
        require_finite(self, "t")
        if self.along not in ("tensor", "rows", "columns"):
            raise ConfigError(f'NuSlerp: along must be "tensor", "rows" or "columns", got {self.along!r}')

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of a few times one tensor of each model, in float64.

        Raises:
            MergeError: no expert has such a name (the message lists those there are), or it does not fit the base.
        """

        def turn(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked.double() - tensor.double()
            merged = self._slerp(vectors[0], vectors[-1])
            return (tensor + merged.reshape(tensor.shape)).to(tensor.dtype)

        ends = {name: read_expert(name, base, experts) for name in (self.start, self.end)}
        return merge_whole_tensors(base, ends, turn)

    def _slerp(self, start: Tensor, end: Tensor) -> Tensor:
        if self.along == "tensor" or start.ndim < 2:
            return slerp(start.flatten(), end.flatten(), self.t)
        if self.along == "rows":
            return slerp(start, end, self.t)
        return slerp(start.movedim(0, -1), end.movedim(0, -1), self.t).movedim(-1, 0)
