"""How two state dicts that should have the same form differ, in words."""

from __future__ import annotations

from collections.abc import Sequence

from fusion_eval.merging.method import StateDict

__all__ = ["describe_mismatch"]

_NAMED = 5


def describe_mismatch(actual: StateDict, expected: StateDict) -> str | None:
    """The first few tensors that are missing, unexpected, of another shape or kind of number; None if all is well.

    Floating-point dtypes may differ from each other, and so may the others; a quantised tensor is no weight.

    Example:
        >>> import torch
        >>> expected = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
        >>> describe_mismatch({"weight": torch.zeros(3, 2)}, expected)
        '1 missing: bias; 1 differing: weight is (3, 2), not (2, 3)'
    """
    shared = [name for name in expected if name in actual]
    parts = [
        _few("missing", [name for name in expected if name not in actual]),
        _few("unexpected", [name for name in actual if name not in expected]),
        _few("differing", [text for name in shared if (text := _difference(name, actual, expected))]),
    ]
    return "; ".join(filter(None, parts)) or None


def _difference(name: str, actual: StateDict, expected: StateDict) -> str | None:
    is_now, should_be = actual[name], expected[name]
    if is_now.shape != should_be.shape:
        return f"{name} is {tuple(is_now.shape)}, not {tuple(should_be.shape)}"
    if is_now.is_floating_point() != should_be.is_floating_point():
        return f"{name} is {is_now.dtype}, not {should_be.dtype}"
    return None


def _few(what: str, found: Sequence[str]) -> str:
    listed = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
    return f"{len(found)} {what}: {listed}" if found else ""
