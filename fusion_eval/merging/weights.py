"""Weights of the experts: how much each of them counts in a merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError, MergeError, suggest

__all__ = ["expert_weights", "require_weights"]


def require_weights(method: object, field: str = "weights") -> None:
    """Refuse a field that does not map expert names to finite numbers.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{type(method).__name__}: {field} must map expert names to numbers, got {value!r}")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
            raise ConfigError(f"{type(method).__name__}: {field}.{name} must be a finite number, got {weight!r}")


def expert_weights(weights: Mapping[str, float], experts: Iterable[str]) -> Tensor | None:
    """The weights in the order of the experts, 1 where none is given: shape `(experts,)`, float64; None if all are 1.

    Raises:
        MergeError: a weight is given for an expert there is not.

    Example:
        >>> expert_weights({"svhn": 0.5}, ["mnist", "svhn"])
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    names = list(experts)
    for name in weights:
        if name not in names:
            raise MergeError(f"weights: there is no expert {name!r}{suggest(name, names)}")
    if all(weight == 1 for weight in weights.values()):
        return None
    return torch.tensor([weights.get(name, 1.0) for name in names], dtype=torch.float64)
