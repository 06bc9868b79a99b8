"""Checks of the numbers a user chooses."""

from __future__ import annotations

import math
from numbers import Real

from fusion_eval.errors import ConfigError

__all__ = [
    "require_count",
    "require_density",
    "require_finite",
    "require_not_negative",
    "require_seed",
    "require_share",
]


def require_finite(method: object, field: str) -> None:
    """Refuse a field that is no finite number.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{type(method).__name__}: {field} must be a finite number, got {value!r}")


def require_density(method: object, field: str = "density") -> None:
    """Refuse a field that is no share of kept parameters, in (0, 1].

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    require_finite(method, field)
    value = getattr(method, field)
    if not 0 < value <= 1:
        raise ConfigError(f"{type(method).__name__}: {field} must be in (0, 1], the share kept, got {value!r}")


def require_share(method: object, field: str) -> None:
    """Refuse a field that is no share, in [0, 1].

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    require_finite(method, field)
    value = getattr(method, field)
    if not 0 <= value <= 1:
        raise ConfigError(f"{type(method).__name__}: {field} must be in [0, 1], got {value!r}")


def require_seed(method: object, field: str = "seed") -> None:
    """Refuse a field that is no integer.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{type(method).__name__}: {field} must be an integer, got {value!r}")


def require_not_negative(method: object, field: str) -> None:
    """Refuse a field that is no finite number from 0 on.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    require_finite(method, field)
    value = getattr(method, field)
    if value < 0:
        raise ConfigError(f"{type(method).__name__}: {field} must not be negative, got {value!r}")


def require_count(method: object, field: str) -> None:
    """Refuse a field that counts nothing: no integer from 1 on.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{type(method).__name__}: {field} must be 1, 2, 3, ..., got {value!r}")
