"""The layers of a model that multiply their inputs with a matrix, and the Gram matrices of those inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LinearLayer", "gram_matrices", "linear_layers"]


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer that computes `x' W` (and adds a bias) for inputs `x` and a matrix `W`, shape `(inputs, outputs)`.

    Attributes:
        module: `nn.Linear`, the `Conv1D` of transformers, or `nn.Conv2d`, for which `x` is a patch.
    """

    module: nn.Module

    @property
    def matrix(self) -> Tensor:
        """The layer's `W`, float64."""
        assert isinstance(self.module.weight, Tensor)
        return self.to_matrix(self.module.weight.detach())

    def to_matrix(self, weight: Tensor) -> Tensor:
        """A weight, as the layer stores it, as `W`, float64."""
        return (weight if _is_conv1d(self.module) else weight.flatten(1).mT).double()

    def to_weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """A `W` as the layer stores it, with shape and dtype of `like`."""
        stored = matrix if _is_conv1d(self.module) else matrix.mT
        return stored.reshape(like.shape).to(like.dtype)

    def rows(self, inputs: Tensor) -> Tensor:
        """What the layer's `forward` is given, as all `x`: shape `(n, inputs)`."""
        if not isinstance(self.module, nn.Conv2d):
            return inputs.flatten(0, -2) if inputs.dim() > 1 else inputs[None]
        layer, maps = self.module, inputs if inputs.dim() == 4 else inputs[None]
        patches = functional.unfold(maps, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return patches.mT.flatten(0, 1)


def linear_layers(backbone: nn.Module, kernels: bool) -> dict[str, LinearLayer]:
    """Name of the weight to the layer.

    Args:
        backbone: The model.
        kernels: Whether `nn.Conv2d` is one, if it has no groups and is padded with zeros.
    """
    stored = backbone.state_dict(keep_vars=True)
    renamed = {id(tensor): name for name, tensor in stored.items()}  # a state dict may have other names than modules
    modules = {}
    for name, module in backbone.named_modules():
        key = f"{name}.weight".removeprefix(".")
        modules[key if key in stored else renamed.get(id(getattr(module, "weight", None)), key)] = module
    return {name: LinearLayer(module) for name, module in modules.items() if _is_linear(module, kernels)}


@contextmanager
def gram_matrices(layers: Mapping[str, LinearLayer]) -> Iterator[dict[str, Tensor]]:
    """While the context lasts, watch the inputs of layers; then fill in the mean of `x x'`, float64, of each.

    It is 0 for a layer that was not called.
    """
    seen = {name: _Seen(torch.zeros((), dtype=torch.float64)) for name in layers}
    hooks = [layer.module.register_forward_pre_hook(partial(seen[name].add, layer)) for name, layer in layers.items()]
    grams: dict[str, Tensor] = {}
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        width = len(layer.matrix)
        grams[name] = (seen[name].total / max(1, seen[name].count)).cpu().expand(width, width)


@dataclass(eq=False)
class _Seen:
    total: Tensor
    count: int = 0

    def add(self, layer: LinearLayer, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = layer.rows(inputs[0]).double()
        self.total = self.total.to(rows.device) + rows.mT @ rows
        self.count += len(rows)


def _is_linear(module: nn.Module, kernels: bool) -> bool:
    if isinstance(module, nn.Conv2d):
        padded_with_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return kernels and module.groups == 1 and padded_with_zeros
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer in transformers, which stores `(inputs, outputs)`."""
    return (type(module).__module__, type(module).__name__) == ("transformers.pytorch_utils", "Conv1D")
