"""What one tensor is merged from, and how one of our methods merges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging import MergingMethod
from fusion_eval.models.mergekit.parameters import Value

__all__ = ["Ingredients", "Options", "Rule", "merged"]


@dataclass(frozen=True)
class Options:
    """The values of all parameters for one tensor.

    Attributes:
        shared: Those of the whole merge.
        own: Model, as the recipe names it, to those it has of its own, in the order of the recipe.
        seed: Of random drops.
    """

    shared: Mapping[str, Value]
    own: Mapping[str, Mapping[str, Value]]
    seed: int

    def number(self, parameter: str) -> float:
        """A parameter of the whole merge."""
        return float(self.shared[parameter])

    def of_models(self, parameter: str) -> dict[str, float]:
        """What each model has of a parameter, in the order of the recipe."""
        return {model: float(values[parameter]) for model, values in self.own.items()}


@dataclass(frozen=True)
class Ingredients:
    """One tensor in every model.

    Attributes:
        name: Of the tensor.
        base: In the base model, if the recipe has one.
        models: In the models that are merged, as the recipe names them: at least one.
    """

    name: str
    base: Tensor | None
    models: Mapping[str, Tensor]

    @property
    def first(self) -> Tensor:
        """In the first model."""
        return next(iter(self.models.values()))


Rule = Callable[[Ingredients], Tensor]
"""Merges one tensor, which has at least one element, in float32, or float64 where an input is."""


def merged(method: MergingMethod, name: str, base: Tensor, models: Mapping[str, Tensor]) -> Tensor:
    """What a method makes of one tensor, not rounded yet."""
    [(_, tensor)] = method.stream({name: base}, {model: {name: theirs} for model, theirs in models.items()})
    return tensor
