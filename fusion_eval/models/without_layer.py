"""Architectures of other libraries without the last layer, which stays with its task."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fusion_eval.errors import ConfigError, suggest

__all__ = ["without_layer"]


def without_layer(architecture: Callable[[], nn.Module], layer: str) -> nn.Module:
    """A model in which a layer passes on what it is given: of a classifier without its last layer, the features.

    timm leaves the last layer out by itself (`num_classes=0`), torchvision does not.

    Args:
        architecture: Builds the model; in YAML a node with `_partial_: true`.
        layer: Name of the layer, such as `fc` in torchvision's ResNet, `heads.head` in its ViT, `classifier.2` in its
            ConvNeXt.

    Raises:
        ConfigError: the model has no such layer.

    Example:
        >>> classifier = lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(without_layer(classifier, "2").state_dict())
        ['0.weight', '0.bias']
    """
    model = architecture()
    owner, _, name = layer.rpartition(".")
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise ConfigError(f"{type(model).__name__} has no layer {layer!r}{suggest(layer, names[-20:])}")
    setattr(model.get_submodule(owner), name, nn.Identity())
    return model
