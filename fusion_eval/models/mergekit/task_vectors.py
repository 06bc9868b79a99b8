"""mergekit's family of methods that thin out task vectors, weigh them and add them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.merging import Breadcrumbs, Dare, Della, MergingMethod, Ties
from fusion_eval.merging.consensus import agrees, disjoint_mean, weigh
from fusion_eval.merging.geometry import inner
from fusion_eval.merging.state_dict import wide
from fusion_eval.models.mergekit.ingredients import Ingredients, Options, Rule, merged
from fusion_eval.models.mergekit.parameters import Value

__all__ = ["Sparsifier", "add_task_vectors", "weighted_sum"]

Sparsifier = Literal["della", "magnitude", "outliers", "random"]

_Thinner = Callable[[str, Tensor], Tensor]
"""Given the name of a tensor and the task vector there, what is left of it."""

_NO_TOTAL = 1e-8  # mergekit's: weights that add up to less do not divide


def weighted_sum(weights: Mapping[str, float], normalize: bool) -> Rule:
    """What adds up the models themselves, times their weights, and divides by the sum of the weights or does not."""
    factors = _factors(weights)

    def merge(tensor: Ingredients) -> Tensor:
        return _add_up(torch.stack([wide(theirs) for theirs in tensor.models.values()]), factors, False, normalize)

    return merge


def add_task_vectors(options: Options, sparsifier: Sparsifier | None, elect: bool) -> Rule:
    """What adds the weighted task vectors to the base.

    Args:
        options: Of one tensor.
        sparsifier: What thins out each task vector first, by the density of its model; None: nothing.
        elect: Whether only values with the elected sign are added up.

    Raises:
        ConfigError: a density, or what goes with it, is out of range.
    """
    factors = _factors(options.of_models("weight"))
    thinners = {model: _thinner(sparsifier, model, own, options) for model, own in options.own.items()}
    normalize, scaling = bool(options.shared["normalize"]), options.number("lambda")

    def merge(tensor: Ingredients) -> Tensor:
        assert tensor.base is not None
        base = wide(tensor.base)
        vectors = [thinners[model](tensor.name, wide(theirs) - base) for model, theirs in tensor.models.items()]
        return base + scaling * _add_up(torch.stack(vectors), factors, elect, normalize)

    return merge


def _thinner(sparsifier: Sparsifier | None, model: str, own: Mapping[str, Value], options: Options) -> _Thinner:
    """What thins out the task vector of a model."""
    density = 1.0 if sparsifier is None else float(own["density"])
    if density >= 1:
        return lambda _name, vector: vector
    if density <= 0:
        return lambda _name, vector: torch.zeros_like(vector)
    method = _keeping(sparsifier, density, own, options.seed)
    rescale = bool(options.shared["rescale"])

    def thin_out(name: str, vector: Tensor) -> Tensor:
        kept = vector * (merged(method, name, torch.zeros_like(vector), {model: vector}) != 0)
        return kept * _ratio(vector, kept) if rescale else kept

    return thin_out


def _keeping(sparsifier: Sparsifier | None, density: float, own: Mapping[str, Value], seed: int) -> MergingMethod:
    """The method of ours that keeps the same values of one task vector, a model whose base is 0."""
    if sparsifier == "della":
        return Della(1.0, density, 2 * float(own["epsilon"]), "sum", seed)
    if sparsifier == "outliers":
        return Breadcrumbs(1.0, density, min(float(own["gamma"]), 1 - density))
    return Dare(1.0, density, "sum", seed) if sparsifier == "random" else Ties(1.0, density, "tensor")


def _ratio(vector: Tensor, kept: Tensor) -> float:
    """Of the L1 norm there was to that of what is kept: mergekit's rescaling."""
    size, left = (inner(values, values.sign()).item() for values in (one.double().flatten() for one in (vector, kept)))
    return size / left if left > 0 else 1.0


def _add_up(vectors: Tensor, factors: Tensor, elect: bool, normalize: bool) -> Tensor:
    """One vector of several, shape `(n, ...)`, with factors of shape `(n,)`."""
    if elect and normalize:
        return disjoint_mean(vectors, factors)
    weighted = weigh(vectors, factors)
    if elect:
        return (weighted * agrees(weighted)).sum(dim=0)
    total = factors.sum() if normalize and factors.sum().abs() >= _NO_TOTAL else 1.0
    return weighted.sum(dim=0) / total


def _factors(weights: Mapping[str, float]) -> Tensor:
    return torch.tensor(list(weights.values()), dtype=torch.float64)
