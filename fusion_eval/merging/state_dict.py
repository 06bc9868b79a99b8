"""Named tensors: which of them are one, in which precision they are merged, and where they come from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["StateDict", "distinct_names", "floating_names", "identity_of", "named_parameters", "wide"]

StateDict = Mapping[str, Tensor]
"""Tensor names to tensors, as `nn.Module.state_dict()` returns them. From disk they are read when they are used."""


def distinct_names(state_dict: StateDict) -> dict[str, str]:
    """Every name to the first name of the same memory: itself, unless the weights are tied.

    Example:
        >>> embedding = torch.zeros(4, 2)
        >>> distinct_names({"embed.weight": embedding, "norm.weight": torch.ones(2), "lm_head.weight": embedding})
        {'embed.weight': 'embed.weight', 'norm.weight': 'norm.weight', 'lm_head.weight': 'embed.weight'}
    """
    first: dict[object, str] = {}
    return {
        name: first.setdefault((tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype), name)
        for name, tensor in state_dict.items()
    }


def floating_names(state_dict: StateDict) -> list[str]:
    """The names of the tensors that are merged: floating-point ones, tied ones under their first name."""
    return [name for name in dict.fromkeys(distinct_names(state_dict).values()) if state_dict[name].is_floating_point()]


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters under the names of the state dict, which need not be those of the modules; tied ones once.

    Example:
        >>> list(named_parameters(nn.BatchNorm1d(2)))
        ['weight', 'bias']
    """
    first = {
        id(tensor): name
        for name, tensor in reversed(module.state_dict(keep_vars=True).items())
        if isinstance(tensor, nn.Parameter)
    }
    return {first[id(parameter)]: parameter for parameter in module.parameters()}


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the precision that methods compute in: float32, or its own if that is float64 or complex."""
    return tensor if tensor.dtype == torch.float64 or tensor.is_complex() else tensor.float()


def identity_of(state_dict: StateDict) -> Hashable | None:
    """What tells these weights from all others without reading them, a file and its time; None if nothing does."""
    identity: Hashable | None = getattr(state_dict, "identity", None)
    return identity
