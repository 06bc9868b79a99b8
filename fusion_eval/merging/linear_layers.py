"""The layers of a model that multiply their inputs with a matrix, and the Gram matrices of those inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LinearLayer", "gram_matrices", "linear_layers"]


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer that computes `x' W` (and adds a bias) for inputs `x` and a matrix `W`, shape `(inputs, outputs)`.

    Attributes:
        modules: `nn.Linear`, the `Conv1D` of transformers, or `nn.Conv2d`, for which `x` is a patch: those that share
            the parameter, one as a rule.
    """

    modules: tuple[nn.Module, ...]

    @property
    def matrix(self) -> Tensor:
        """The layer's `W`, float64."""
        weight = self.modules[0].weight
        assert isinstance(weight, Tensor)
        return self.to_matrix(weight.detach())

    def to_matrix(self, weight: Tensor) -> Tensor:
        """A weight, as the layer stores it, as `W`, float64."""
        return (weight if _is_conv1d(self.modules[0]) else weight.flatten(1).mT).double()

    def to_weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """A `W` as the layer stores it, with shape and dtype of `like`."""
        stored = matrix if _is_conv1d(self.modules[0]) else matrix.mT
        return stored.reshape(like.shape).to(like.dtype)


def linear_layers(backbone: nn.Module, kernels: bool) -> dict[str, LinearLayer]:
    """Name of the weight, the first of tied ones, to the layer; a weight that something else has too is left out.

    Args:
        backbone: The model.
        kernels: Whether `nn.Conv2d` is one, if it has no groups and is padded with zeros.
    """
    names = {id(tensor): name for name, tensor in reversed(backbone.state_dict(keep_vars=True).items())}
    sharing = defaultdict(list)
    for module in backbone.modules():
        if name := names.get(id(getattr(module, "weight", None))):
            sharing[name].append(module)
    return {
        name: LinearLayer(tuple(modules))
        for name, modules in sharing.items()
        if all(_is_linear(module, kernels) for module in modules) and len(set(map(_is_conv1d, modules))) == 1
    }


@contextmanager
def gram_matrices(layers: Mapping[str, LinearLayer]) -> Iterator[dict[str, Tensor]]:
    """While the context lasts, watch the inputs of layers; then fill in the mean of `x x'`, float64, of each.

    It is 0 for a layer that was not called.
    """
    seen = {name: _Seen(torch.zeros((), dtype=torch.float64)) for name in layers}
    hooks = [
        module.register_forward_pre_hook(seen[name].add) for name, layer in layers.items() for module in layer.modules
    ]
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

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(module, inputs[0]).double()
        self.total = self.total.to(rows.device) + rows.mT @ rows
        self.count += len(rows)


def _rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a module's `forward` is given, as all `x`: shape `(n, inputs)`."""
    if not isinstance(module, nn.Conv2d):
        return inputs.flatten(0, -2) if inputs.dim() > 1 else inputs[None]
    maps = inputs if inputs.dim() == 4 else inputs[None]
    patches = functional.unfold(maps, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    return patches.mT.flatten(0, 1)


def _is_linear(module: nn.Module, kernels: bool) -> bool:
    if isinstance(module, nn.Conv2d):
        padded_with_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return kernels and module.groups == 1 and padded_with_zeros
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer in transformers, which stores `(inputs, outputs)`."""
    return (type(module).__module__, type(module).__name__) == ("transformers.pytorch_utils", "Conv1D")
