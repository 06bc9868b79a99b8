"""Building a backbone whose weights are about to be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["build_empty"]

_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def build_empty(architecture: Callable[[], nn.Module]) -> nn.Module:
    """Build a module, but leave out what takes most of the time: drawing random numbers for its parameters.

    Buffers are filled as ever, since not all of them are in a state dict.

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
