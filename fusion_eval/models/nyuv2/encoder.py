"""A residual network without strides in its last stages, for maps at an eighth of the image's size."""

from __future__ import annotations

from torch import Tensor, nn

from fusion_eval.errors import ConfigError, suggest

__all__ = ["DilatedResNet"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage, by the number of layers (arXiv 1512.03385, table 1)."""


class DilatedResNet(nn.Module):
    """The encoder of MTAN and of FusionBench's NYUv2 models: a ResNet (arXiv 1512.03385), dilated (arXiv 1705.09914).

    The stages 3 and 4 keep the resolution of stage 2, and look as far as before with dilation 2 and 4. Tensors have
    the names of torchvision's ResNets, so that their weights (without `fc`) are a base.

    Args:
        layers: 18, 34, 50, 101 or 152.
        width: Channels of the first stage; 64 in all published ones.

    Raises:
        ConfigError: `layers` is none of these, or `width` is not positive.

    Example:
        >>> import torch
        >>> DilatedResNet(layers=18, width=4)(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 32, 8, 12])
    """

    def __init__(self, layers: int = 50, width: int = 64) -> None:
        super().__init__()
        if layers not in _BLOCKS:
            raise ConfigError(f"DilatedResNet: layers={layers!r}{suggest(str(layers), map(str, _BLOCKS))}")
        if width < 1:
            raise ConfigError(f"DilatedResNet: width={width!r}; it should be at least 1 channel")
        block = _Basic if layers < 50 else _Bottleneck
        counts, expansion = _BLOCKS[layers], block.expansion
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, counts[0])
        self.layer2 = _stage(block, expansion * width, 2 * width, counts[1], stride=2)
        self.layer3 = _stage(block, expansion * 2 * width, 4 * width, counts[2], dilation=2)
        self.layer4 = _stage(block, expansion * 4 * width, 8 * width, counts[3], dilation=4)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(n, 3, height, width)` to features `(n, channels, height / 8, width / 8)`."""
        features: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return features


class _Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        joined: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return joined


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(channels, self.expansion * width, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        joined: Tensor = self.relu(self.bn3(self.conv3(inner)) + shortcut)
        return joined


def _stage(
    block: type[_Basic] | type[_Bottleneck], channels: int, width: int, count: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Blocks of one width; the convolution that had a stride before is dilated half as much as those after it."""
    first = block(channels, width, stride, (max(1, dilation // 2), dilation))
    rest = [block(block.expansion * width, width, 1, (dilation, dilation)) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels))


def _convolution(channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
