"""The parameters of a mergekit recipe: numbers and switches that may depend on a tensor's name and depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fusion_eval.errors import ConfigError, suggest

__all__ = ["TECHNICAL", "Parameters", "Setting", "Value", "first_set", "read_parameters"]

Value = float | bool

_NUMBERS = frozenset(
    ("density", "eps", "epsilon", "gamma", "lambda", "max_iter", "scale", "select_topk", "t", "tol", "weight")
)
_SWITCHES = frozenset(
    (
        "filter_wise",
        "int8_mask",
        "normalize",
        "normalize_weights",
        "nuslerp_flatten",
        "nuslerp_row_wise",
        "rescale",
    )
)
TECHNICAL = frozenset(("eps", "int8_mask", "max_iter", "tol"))
"""Parameters of how mergekit computes, not of what."""


@dataclass(frozen=True)
class Setting:
    """What a recipe says of one parameter in one place.

    Attributes:
        branches: Pairs of a piece of a tensor name and a gradient: the values at evenly spaced depths, the first and
            the last layer among them. The first pair whose piece occurs in the name counts; "" occurs in every name.
    """

    branches: tuple[tuple[str, tuple[Value, ...]], ...]

    def at(self, name: str, depth: float) -> Value | None:
        """The value for a tensor: linear between the numbers of a gradient; a switch holds until the next one.

        Args:
            name: Of the tensor.
            depth: Of its layer, from 0, the first, to 1, the last.

        Returns:
            None where no branch is for this name.

        Example:
            >>> setting = Setting((("mlp", (1.0, 0.0, 0.5)), ("", (0.3,))))
            >>> setting.at("layers.1.mlp.weight", 0.25), setting.at("norm.weight", 0.0)
            (0.5, 0.3)
        """
        gradient = next((values for piece, values in self.branches if piece in name), None)
        if gradient is None:
            return None
        place = depth * (len(gradient) - 1)
        before = gradient[int(place)]
        if isinstance(before, bool):
            return before
        after = gradient[min(int(place) + 1, len(gradient) - 1)]
        share = place - int(place)
        return (1 - share) * before + share * after


Parameters = Mapping[str, Setting]
"""Name of a parameter to its setting, as one `parameters:` of a recipe gives them."""


def first_set(parameter: str, places: Iterable[Parameters], name: str, depth: float) -> Value | None:
    """The value for a tensor in the first of several places that has one: nearest first. None: no place has."""
    found = (place[parameter].at(name, depth) for place in places if parameter in place)
    return next((value for value in found if value is not None), None)


def read_parameters(content: Any, where: str) -> Parameters:
    """Read one `parameters:`.

    Args:
        content: What YAML made of it; None is the absence of any.
        where: File and field, for messages.

    Raises:
        ConfigError: mergekit knows no such parameter, or a value is none of the forms it may have.

    Example:
        >>> read_parameters({"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}, "recipe.yml: parameters")
        {'t': Setting(branches=(('mlp', (0.0, 1.0)), ('', (0.5,))))}
    """
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping of parameters, found {content!r}")
    for parameter in content:
        if parameter not in _NUMBERS | _SWITCHES:
            raise ConfigError(
                f"{where}: no merge method has a parameter {parameter!r}{suggest(str(parameter), _NUMBERS | _SWITCHES)}"
            )
    return {parameter: _setting(parameter, value, f"{where}.{parameter}") for parameter, value in content.items()}


def _setting(parameter: str, content: Any, where: str) -> Setting:
    if isinstance(content, Mapping):
        return Setting((_branch(parameter, content, where),))
    if isinstance(content, list) and content and all(isinstance(item, Mapping) for item in content):
        branches = [_branch(parameter, item, f"{where}[{place}]") for place, item in enumerate(content)]
        return Setting(tuple(branches))
    return Setting((("", _gradient(parameter, content, where)),))


def _branch(parameter: str, content: Mapping[Any, Any], where: str) -> tuple[str, tuple[Value, ...]]:
    piece = content.get("filter")
    if "value" not in content or not content.keys() <= {"filter", "value"} or not isinstance(piece, str | None):
        raise ConfigError(f"{where}: expected `value` and perhaps `filter`, a piece of tensor names; found {content!r}")
    return "" if piece in (None, "*") else piece, _gradient(parameter, content["value"], f"{where}.value")


def _gradient(parameter: str, content: Any, where: str) -> tuple[Value, ...]:
    items = content if isinstance(content, list) else [content]
    values = [_value(parameter, item) for item in items]
    if not values or None in values:
        kind = "true or false" if parameter in _SWITCHES else "a finite number"
        raise ConfigError(
            f"{where}: expected {kind}, a list of them from the first layer to the last, or a list of `filter` and "
            f"`value`; found {content!r}"
        )
    return tuple(value for value in values if value is not None)


def _value(parameter: str, item: Any) -> Value | None:
    """The value, or None if it is of the wrong kind. YAML takes 1e-5, without a dot, for a string."""
    if parameter in _SWITCHES:
        return item if isinstance(item, bool) else None
    try:
        number = math.nan if isinstance(item, bool) else float(item)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
