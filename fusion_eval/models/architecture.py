"""The names, shapes and ties of an architecture, without the time its random weights take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["build_empty"]

_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def build_empty(architecture: Callable[[], nn.Module]) -> nn.Module:
    """Build a module of which only the form is wanted: no random numbers are drawn for its parameters.

    It is not fit to be run: what the constructor computes from parameters, or draws after them, is not as it should be.

    Example:
        >>> layer = build_empty(lambda: nn.Linear(2, 3))
        >>> layer.weight.shape
        torch.Size([3, 2])
    """
    with _WithoutDraws():  # type: ignore[no-untyped-call]
        return architecture()


class _WithoutDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))
