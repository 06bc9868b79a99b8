"""mergekit's merge methods by name, and which of ours makes the same of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from fusion_eval.errors import ConfigError
from fusion_eval.merging import KarcherMean, MergingMethod, ModelStock, MultiSlerp, NuSlerp, Sce, Slerp
from fusion_eval.models.mergekit.ingredients import Ingredients, Options, Rule, merged
from fusion_eval.models.mergekit.parameters import Value
from fusion_eval.models.mergekit.task_vectors import Sparsifier, add_task_vectors, weighted_sum

__all__ = ["METHODS", "MergekitMethod"]


@dataclass(frozen=True)
class MergekitMethod:
    """What a recipe may say of one `merge_method`.

    Attributes:
        prepare: Given the values for one tensor, returns what merges it, or raises a ConfigError that names a value.
        base: Whether the method needs the base model, can do without, or takes it for one more model to be merged.
        shared: The parameters of the whole merge, and their defaults. None: it must be given.
        own: Those that every model, the base model aside, has of its own, likewise.
        least: How many models, the base model aside, there are at least.
        most: And at most.
    """

    prepare: Callable[[Options], Rule]
    base: Literal["needed", "optional", "a model"]
    shared: Mapping[str, Value | None] = field(default_factory=dict)
    own: Mapping[str, Value | None] = field(default_factory=dict)
    least: int = 1
    most: int | None = None


def _linear(options: Options) -> Rule:
    weights, normalize = options.of_models("weight"), bool(options.shared["normalize"])
    if normalize:
        _require_total(weights)
    return weighted_sum(weights, normalize)


def _passthrough(options: Options) -> Rule:
    return weighted_sum(options.of_models("scale"), normalize=False)


def _slerp(options: Options) -> Rule:
    [end] = options.own
    return _ours(Slerp(end=end, t=options.number("t")))


def _nuslerp(options: Options) -> Rule:
    (start, from_start), (end, from_end) = options.of_models("weight").items()
    total = from_start + from_end
    if options.shared["nuslerp_flatten"]:
        along: Literal["tensor", "rows", "columns"] = "tensor"
    else:
        along = "columns" if options.shared["nuslerp_row_wise"] else "rows"
    return _ours(NuSlerp(start, end, 0.5 if abs(total) < 1e-6 else from_end / total, along))


def _multislerp(options: Options) -> Rule:
    weights = options.of_models("weight")
    if not options.shared["normalize_weights"] and abs(sum(weights.values()) - 1) > 1e-6:
        raise ConfigError("parameters.normalize_weights: false is only supported where the weights add up to 1")
    _require_total(weights)
    return _ours(MultiSlerp(weights=weights))


def _model_stock(options: Options) -> Rule:
    if options.shared["filter_wise"]:
        raise ConfigError("parameters.filter_wise: true, a ratio for each row, is not supported")
    return _ours(ModelStock())


def _sce(options: Options) -> Rule:
    return _ours(Sce(density=options.number("select_topk"), equal_below=1e-6))


def _karcher(_options: Options) -> Rule:
    return _ours(KarcherMean())


def _require_total(weights: Mapping[str, float]) -> None:
    if sum(weights.values()) == 0:
        raise ConfigError(f"parameters.weight: nothing can be divided by their sum, 0: {dict(weights)}")


def _ours(method: MergingMethod) -> Rule:
    """A method of ours as it is; without a base model task vectors are taken from zero."""

    def merge(tensor: Ingredients) -> torch.Tensor:
        origin = torch.zeros_like(tensor.first) if tensor.base is None else tensor.base
        return merged(method, tensor.name, origin, tensor.models)

    return merge


def _task_vectors(
    sparsifier: Sparsifier | None = None, elect: bool = False, normalize: bool = False, rescale: bool = False
) -> MergekitMethod:
    """One of the methods that add up task vectors, with mergekit's defaults of `normalize` and `rescale`."""
    extra: dict[Sparsifier | None, dict[str, Value]] = {"della": {"epsilon": 0.15}, "outliers": {"gamma": 0.01}}
    thinning_out: dict[str, Value] = {"density": 1.0, **extra.get(sparsifier, {})}
    return MergekitMethod(
        prepare=partial(add_task_vectors, sparsifier=sparsifier, elect=elect),
        base="needed",
        shared={"normalize": normalize, "lambda": 1.0, **({"rescale": rescale} if sparsifier else {})},
        own={"weight": None, **(thinning_out if sparsifier else {})},
    )


METHODS: Mapping[str, MergekitMethod] = {
    "breadcrumbs": _task_vectors("outliers"),
    "breadcrumbs_ties": _task_vectors("outliers", elect=True),
    "dare_linear": _task_vectors("random", rescale=True),
    "dare_ties": _task_vectors("random", elect=True, rescale=True),
    "della": _task_vectors("della", elect=True, normalize=True, rescale=True),
    "della_linear": _task_vectors("della", rescale=True),
    "karcher": MergekitMethod(_karcher, "a model"),
    "linear": MergekitMethod(_linear, "a model", {"normalize": True}, {"weight": None}),
    "model_stock": MergekitMethod(_model_stock, "needed", {"filter_wise": False}, least=2),
    "multislerp": MergekitMethod(_multislerp, "optional", {"normalize_weights": True}, {"weight": None}),
    "nuslerp": MergekitMethod(
        _nuslerp,
        "optional",
        {"nuslerp_flatten": True, "nuslerp_row_wise": False},
        {"weight": None},
        least=2,
        most=2,
    ),
    "passthrough": MergekitMethod(_passthrough, "a model", own={"scale": 1.0}, most=1),
    "sce": MergekitMethod(_sce, "needed", {"select_topk": 1.0}),
    "slerp": MergekitMethod(_slerp, "needed", {"t": None}, most=1),
    "task_arithmetic": _task_vectors(),
    "ties": _task_vectors("magnitude", elect=True, normalize=True),
}
"""`merge_method` to what it is here."""
