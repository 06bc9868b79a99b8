"""Where in a model a tensor is, told by its name: which slice of a recipe it belongs to, and how deep in there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fusion_eval.errors import ConfigError
from fusion_eval.models.mergekit.recipe import Slice

__all__ = ["Place", "places"]

_LAYER = re.compile(r"((?:.*?\.)??)(\d+)\.")  # a name up to the first number between dots


@dataclass(frozen=True)
class Place:
    """Of a tensor.

    Attributes:
        part: The slice it belongs to.
        depth: Of its layer in the slice, from 0, the first, to 1, the last. As in mergekit the only layer of a slice
            has 1, and what is in no layer has 0, also behind the last one.
    """

    part: Slice
    depth: float


def places(names: Iterable[str], slices: Sequence[Slice], file: str) -> dict[str, Place]:
    """The place of every tensor.

    The first number between dots is the layer, what is before it the list of layers: an encoder's and a decoder's have
    depths of their own. What is in no layer belongs to the first slice, or, behind all layers, to the last one.

    Args:
        names: Of all tensors, in the order of the architecture.
        slices: Of the recipe, from the first layer to the last.
        file: The recipe, for messages.

    Raises:
        ConfigError: the slices end before the last layer or behind it, or the model has several lists of layers.
    """
    layer_of: dict[str, tuple[str, int]] = {}
    found: dict[str, Place] = {}
    for name in names:
        if match := _LAYER.match(name):
            layer_of[name] = match[1], int(match[2])
        found[name] = Place(slices[-1] if layer_of else slices[0], 0.0)
    end_of: dict[str, int] = {}
    for stack, layer in layer_of.values():
        end_of[stack] = max(end_of.get(stack, 0), layer + 1)
    _check_layers(slices, end_of, file)
    for name, (stack, layer) in layer_of.items():
        part = next(part for part in slices if part.layers is None or layer < part.layers[1])
        first, end = part.layers or (0, end_of[stack])
        found[name] = Place(part, (layer - first) / (end - first - 1) if end - first > 1 else 1.0)
    return found


def _check_layers(slices: Sequence[Slice], end_of: dict[str, int], file: str) -> None:
    layers = slices[-1].layers
    if layers is None:
        return
    if len(end_of) != 1:
        raise ConfigError(
            f"{file}: slices: the base has {len(end_of)} lists of layers ({', '.join(sorted(end_of)) or 'none'}), "
            "where slices are of one; use models"
        )
    [(stack, end)] = end_of.items()
    if layers[1] != end:
        raise ConfigError(
            f"{file}: slices: they cover layers 0 to {layers[1]}, where the base has {end} ({stack}*): only slices "
            "that make up the whole model can be merged; others change the architecture"
        )
