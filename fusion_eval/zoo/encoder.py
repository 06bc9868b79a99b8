"""The architecture of the embedded base and experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A small pre-activation residual network (arXiv 1603.05027) with GroupNorm (arXiv 1803.08494), 0.27M parameters.

    GroupNorm keeps no running statistics, which would have to be recalibrated after every merge (arXiv 2211.08403).
    A final LayerNorm gives the features of every merge the same scale, so that the heads of the experts fit them.

    Example:
        >>> Encoder()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 96])
    """

    features: int = 96
    """Length of the feature vector, the input size of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, kernel_size=3, padding=1, bias=False)
        self.blocks = nn.Sequential(_Block(24, 48), _Block(48, 64), _Block(64, self.features))
        self.norm = nn.LayerNorm(self.features)

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape `(n, 3, 32, 32)`, float32 in [-1, 1], to features of shape `(n, 96)`."""
        maps: Tensor = self.blocks(self.stem(images))
        features: Tensor = self.norm(maps.mean(dim=(2, 3)))
        return features


class _Block(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut; halves height and width."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(maps))
        shortcut: Tensor = self.shortcut(functional.avg_pool2d(hidden, 2))
        hidden = self.conv2(functional.relu(self.norm2(self.conv1(hidden))))
        return shortcut + hidden
