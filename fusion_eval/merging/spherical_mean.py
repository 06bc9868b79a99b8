"""Means of many models that keep their length, which the plain mean loses wherever they point apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.geometry import direction, inner, length
from fusion_eval.merging.method import MergingMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tensors import Tensors, merge_whole_tensors
from fusion_eval.merging.weights import expert_weights, require_weights

__all__ = ["KarcherMean", "MultiSlerp"]

_Origin = Literal["base", "zero"]

_NO_DIRECTION = 1e-6  # a mean of directions, or a tangent, that is shorter is the noise of float32 weights
_CONVERGED = 1e-7  # radians
_MOST_STEPS = 100


@dataclass(frozen=True)
class MultiSlerp(MergingMethod):
    """The mean direction of the experts times their mean length, each tensor one vector: mergekit's `multislerp`.

    There is no paper: it is what mergekit's guide (docs/merge_methods.md) and code (merge_methods/multislerp.py) say,
    and its author's article (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea), which the code names.

    mergekit projects the experts to the tangent space at their mean direction, and averages there with the same
    weights as that mean. That average is 0 by the definition of the mean, so this closed form is the same merge. Where
    the directions cancel (mergekit refuses, but for two) it is the plain mean.

    Attributes:
        origin: What the vectors are taken from: the "base" (task vectors), or "zero" (the weights themselves).
        weights: Expert name to its weight in both means, of the directions and of the lengths; 1 for those not named.

    Raises:
        ConfigError: `origin` is unknown, or a weight is not a finite number.
    """

    origin: _Origin = "base"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _require_origin(self)
        require_weights(self)

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of one tensor of every expert in float64, thrice.

        Raises:
            MergeError: the weights add up to 0.
        """
        read = read_experts(base, experts)
        weights = expert_weights(self.weights, read)
        if weights is not None and weights.sum() == 0:
            raise MergeError(f"MultiSlerp: the weights add up to 0: {dict(self.weights)}")
        shares = _equal_shares(len(read)) if weights is None else weights / weights.sum()
        return _merge(base, read, self.origin, shares, lambda _cosines: shares)


@dataclass(frozen=True)
class KarcherMean(MergingMethod):
    """The Karcher mean of the directions times the mean length, each tensor one vector: mergekit's `karcher`.

    The Karcher mean, or Fréchet mean, is the point of the sphere whose summed squared angles to the directions are
    least (Karcher 1977, "Riemannian center of mass and mollifier smoothing"; for its history, arXiv 1407.2087). It is
    found by algorithm A1 of Buss and Fillmore 2001, "Spherical averages and applications to spherical splines and
    interpolation", iterated until it moves by less than 1e-7 radians, where mergekit stops after 10 steps. Of two it
    is the middle of the arc. That it may merge models has no paper: it comes from mergekit (docs/merge_methods.md).
    Where the directions cancel it is the plain mean, as there are many Karcher means.

    Attributes:
        origin: What the vectors are taken from: "zero" (the weights themselves, as in mergekit) or the "base" (task
            vectors).

    Raises:
        ConfigError: `origin` is unknown.
    """

    origin: _Origin = "zero"

    def __post_init__(self) -> None:
        _require_origin(self)

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes the memory of one tensor of every expert in float64, thrice."""
        read = read_experts(base, experts)
        return _merge(base, read, self.origin, _equal_shares(len(read)), _karcher_weights)


def _require_origin(method: MultiSlerp | KarcherMean) -> None:
    if method.origin not in ("base", "zero"):
        raise ConfigError(f'{type(method).__name__}: origin must be "base" or "zero", got {method.origin!r}')


def _merge(
    base: StateDict,
    experts: Mapping[str, StateDict],
    origin: _Origin,
    shares: Tensor,
    weigh: Callable[[Tensor], Tensor],
) -> Tensors:
    """Merge into the mean length times the direction of a weighted sum of directions, `weigh`ed by their cosines.

    The `shares` of the experts, shape `(n,)`, in means of vectors and lengths add up to 1.
    """

    def mean(values: Tensor) -> Tensor:
        return (shares.to(values)[:, None] * values).sum(dim=0)

    def turn(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
        start = tensor.double() if origin == "base" else torch.zeros_like(tensor, dtype=torch.float64)
        vectors = (stacked.double() - start).reshape(len(stacked), -1)
        directions = direction(vectors)
        cosines = inner(directions[:, None], directions[None]).squeeze(-1)
        if mean(mean(cosines)[:, None]) < _NO_DIRECTION**2:
            merged = mean(vectors)
        else:
            weights = weigh(cosines).to(vectors)
            merged = mean(length(vectors)) * direction((weights[:, None] * directions).sum(dim=0))
        return (start + merged.view(tensor.shape)).to(tensor.dtype)

    return merge_whole_tensors(base, experts, turn)


def _equal_shares(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def _karcher_weights(cosines: Tensor) -> Tensor:
    """Step to the mean of the directions, as seen from the one so far, until it stands still.

    All points on the way are weighted sums of the directions, so it takes their cosines alone, shape `(n, n)`.
    """

    def size(weights: Tensor) -> Tensor:
        return (weights @ cosines @ weights).clamp(min=0).sqrt()

    mean = _equal_shares(len(cosines)).to(cosines)
    for _ in range(_MOST_STEPS):
        mean = mean / size(mean)
        towards = (cosines @ mean).clamp(-1, 1)
        angles = towards.acos()
        pull = (angles / angles.sin()).where(angles.sin() > _NO_DIRECTION, 1) / len(cosines)
        step = pull - (pull * towards).sum() * mean  # the mean of all tangents pull * (direction - towards * mean)
        angle = size(step)
        if angle < _CONVERGED:
            break
        mean = angle.cos() * mean + angle.sin() / angle * step
    return mean
