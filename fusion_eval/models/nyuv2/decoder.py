"""The decoder of one dense task: atrous spatial pyramid pooling, and a map on top."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fusion_eval.errors import CheckpointError
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict

__all__ = ["ASPPDecoder", "ASPPHead"]

_RATES = (12, 24, 36)
"""Dilations of the 3x3 convolutions at an eighth of the image's size (arXiv 1706.05587, section 3.3)."""


class ASPPDecoder(nn.Sequential):
    """The DeepLabv3 head (arXiv 1706.05587): five views of the features side by side, then two convolutions.

    Tensors have the names of torchvision's `DeepLabHead`, as in the decoders of MTAN and FusionBench.

    Args:
        channels: Of the features.
        out_channels: Of the map: 13 classes, 1 depth, 3 coordinates of a normal.
        width: Of what lies between.

    Example:
        >>> decoder = ASPPDecoder(channels=32, out_channels=13, width=8).eval()
        >>> decoder(torch.zeros(1, 32, 6, 9)).shape
        torch.Size([1, 13, 6, 9])
    """

    def __init__(self, channels: int, out_channels: int, width: int = 256) -> None:
        super().__init__(
            _Pyramid(channels, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out_channels, 1),
        )


@dataclass(frozen=True)
class ASPPHead:
    """An `ASPPDecoder` on disk; how many channels it has is read from its weights.

    Attributes:
        path: A checkpoint, as `load_state_dict` takes it; what else is in it does not matter.
        prefix: What its tensors' names begin with: "decoders.depth." in a checkpoint of FusionBench.

    Example:
        >>> ASPPHead("depth/last.ckpt", "decoders.depth.").prefix
        'decoders.depth.'
    """

    path: str
    prefix: str = ""

    def load(self) -> ASPPDecoder:
        """Read it, in float32.

        Raises:
            CheckpointError: it cannot be read, or there is no such decoder in it.
        """
        stored = load_state_dict(self.path)
        own = {
            name.removeprefix(self.prefix): tensor for name, tensor in stored.items() if name.startswith(self.prefix)
        }
        first, last = own.get("0.convs.0.0.weight"), own.get("4.weight")
        if first is None or last is None:
            raise CheckpointError(f"{self.path}: holds no ASPP decoder below {self.prefix!r}")
        decoder = ASPPDecoder(first.shape[1], last.shape[0], first.shape[0])
        decoder.load_state_dict(fit_state_dict(own, decoder.state_dict(), f"{self.path}, below {self.prefix!r}"))
        return decoder


class _Pyramid(nn.Module):
    """Convolutions of several reaches, and the mean of the whole map, joined by one of 1x1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        reaches = [_unit(nn.Conv2d(channels, width, 3, padding=rate, dilation=rate, bias=False)) for rate in _RATES]
        self.convs = nn.ModuleList([_unit(nn.Conv2d(channels, width, 1, bias=False)), *reaches, _Mean(channels, width)])
        self.project = _unit(nn.Conv2d(len(self.convs) * width, width, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        joined: Tensor = self.project(torch.cat([view(features) for view in self.convs], dim=1))
        return joined


class _Mean(nn.Sequential):
    """The mean of the map, at every place of it."""

    def __init__(self, channels: int, width: int) -> None:
        pooling = nn.AdaptiveAvgPool2d(1)
        super().__init__(pooling, *_unit(nn.Conv2d(channels, width, 1, bias=False)))

    def forward(self, features: Tensor) -> Tensor:
        mean: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return mean.expand(-1, -1, *features.shape[-2:])


def _unit(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
