"""The architecture of the embedded base and experts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A small pre-activation residual network (arXiv 1603.05027) with GroupNorm (arXiv 1803.08494), 0.21M parameters.

    GroupNorm keeps no running statistics, which would have to be recalibrated after every merge (arXiv 2211.08403).
    Shortcuts carry what the norms remove, brightness and contrast, which tell photographs apart. A final LayerNorm
    gives the features of every merge the same scale, so that the heads of the experts fit them.

    Example:
        >>> import torch
        >>> Encoder()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 384])
    """

    features: int = 384
    """Length of the feature vector, the input size of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, kernel_size=5, stride=2, padding=2)
        self.blocks = nn.Sequential(_Block(32, 64), _Block(64, 96))
        self.norm = nn.LayerNorm(self.features)

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape `(n, 3, 32, 32)`, float32 in [-1, 1], to features of shape `(n, 384)`."""
        maps = self.blocks(functional.relu(self.stem(images)))
        # The largest of each quarter of the image: where a stroke lies matters for letters, not only that it is there.
        features: Tensor = self.norm(functional.max_pool2d(maps, 2).flatten(1))
        return features


class _Block(nn.Module):
    """Two 3x3 convolutions beside a pooled 1x1 shortcut; halves height and width."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.norm1(maps)))
        hidden = self.conv2(functional.relu(self.norm2(hidden)))
        shortcut = self.shortcut(functional.avg_pool2d(maps, 2))
        out: Tensor = shortcut + hidden
        return out
