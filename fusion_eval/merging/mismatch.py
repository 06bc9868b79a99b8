"""How two state dicts that should have the same form differ, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusion_eval.errors import few
from fusion_eval.merging.state_dict import StateDict, distinct_names

__all__ = ["describe_mismatch"]


def describe_mismatch(actual: StateDict, expected: StateDict) -> str | None:
    """The first few tensors that are missing, unexpected, of another form, or no longer tied; None if all is well.

    Floating-point dtypes may differ from each other, and so may the others; a quantised tensor is no weight.

    Example:
        >>> import torch
        >>> expected = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
        >>> describe_mismatch({"weight": torch.zeros(3, 2)}, expected)
        '1 missing: bias; 1 differing: weight is (3, 2), not (2, 3)'
    """
    first_of = distinct_names(expected)
    shared = [name for name in expected if name in actual]
    parts = [
        _counted("missing", [name for name in expected if name not in actual]),
        _counted("unexpected", [name for name in actual if name not in expected]),
        _counted("differing", [text for name in shared if (text := _difference(name, actual, expected))]),
        _counted("untied", [text for name in shared if (text := _untied(name, actual, first_of[name]))]),
    ]
    return "; ".join(filter(None, parts)) or None


def _difference(name: str, actual: StateDict, expected: StateDict) -> str | None:
    is_now, should_be = actual[name], expected[name]
    if is_now.shape != should_be.shape:
        return f"{name} is {tuple(is_now.shape)}, not {tuple(should_be.shape)}"
    if is_now.is_floating_point() != should_be.is_floating_point():
        return f"{name} is {is_now.dtype}, not {should_be.dtype}"
    return None


def _untied(name: str, actual: StateDict, first: str) -> str | None:
    if name == first or first not in actual or _same(actual[name], actual[first]):
        return None
    return f"{name} is not {first}, as it should be"


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or torch.equal(one.double(), other.double())


def _counted(what: str, found: Sequence[str]) -> str:
    return f"{len(found)} {what}: {few(found)}" if found else ""
