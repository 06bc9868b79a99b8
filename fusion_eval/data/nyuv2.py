"""NYUv2 as the multi-task literature has it: images, labels, depths and normals, one array a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.errors import ConfigError, DataError, few, suggest

__all__ = ["NYUv2"]

_FOLDERS = {"segmentation": "label", "depth": "depth", "normal": "normal"}
_CHANNELS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
"""Length of the last axis of an array; 0: it has no such axis."""


@dataclass(frozen=True)
class NYUv2(DataSource):
    """One target of NYUv2 (Silberman et al., ECCV 2012), preprocessed to 288 x 384 as for MTAN (arXiv 1803.10704).

    The directory is the one that MTAN, auto-lambda and FusionBench read: `root/train` and `root/val`, each with the
    folders `image`, `label`, `depth` and `normal` of the files `0.npy`, `1.npy`, ..., with the channels as the last
    axis. Only the folders `image` and that of the target are read, when a sample is asked for.

    Args:
        root: The directory.
        split: `train` (795 images) or `val` (654 images).
        target: `segmentation`: integers `(height, width)`, -1 where there is no label; `depth`: metres
            `(height, width)`, 0 where unknown; `normal`: unit vectors `(3, height, width)`, 0 where unknown.
        expected_size: Split to the number of images it should have; None: any number will do.

    Raises:
        ConfigError: `target` is none of these.

    Example:
        >>> NYUv2("data/nyuv2", target="depth").split
        'val'
    """

    root: str
    split: str = "val"
    target: str = "segmentation"
    expected_size: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.target not in _FOLDERS:
            raise ConfigError(f"NYUv2: target={self.target!r}{suggest(self.target, _FOLDERS)}")

    def load(self) -> Samples:
        """List the files, and check that none is missing.

        Returns:
            Items `(image, target)`, the image float32 `(3, height, width)` as stored.

        Raises:
            DataError: a folder or file is missing.
        """
        folder = Path(self.root).expanduser() / self.split
        files = [_numbered(folder / name) for name in ("image", _FOLDERS[self.target])]
        if len(files[0]) != len(files[1]):
            raise DataError(f"{folder}: {len(files[0])} images, but {len(files[1])} files in {_FOLDERS[self.target]}")
        expected = (self.expected_size or {}).get(self.split, len(files[0]))
        if len(files[0]) != expected:
            raise DataError(
                f"{folder}: {len(files[0])} images, where {expected} are expected: some are missing, or they are not "
                "those of published numbers; expected_size=null takes them as they are"
            )
        return _Scenes(files[0], files[1])


class _Scenes(Samples):
    def __init__(self, images: list[Path], targets: list[Path]) -> None:
        self._images = images
        self._targets = targets

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = _read(self._images[index]), _read(self._targets[index])
        if image.shape[-2:] != target.shape[-2:]:
            sizes = [tuple(array.shape[-2:]) for array in (target, image)]
            raise DataError(f"{self._targets[index]}: {sizes[0]} pixels, but the image has {sizes[1]}")
        return image, target

    def fingerprint(self) -> str:
        """Digest of the bytes of all files, in order."""
        return digest_content(self._bytes())

    def _bytes(self) -> Iterator[bytes]:
        for image, target in zip(self._images, self._targets, strict=True):
            yield image.read_bytes()
            yield target.read_bytes()


def _numbered(folder: Path) -> list[Path]:
    """`0.npy`, `1.npy`, ... of a folder."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such directory; NYUv2 has root/train and root/val with the folders image, label, depth and "
            "normal of .npy files (https://github.com/lorenmt/mtan says where they are)"
        )
    files = [folder / f"{number}.npy" for number in range(len(list(folder.glob("*.npy"))))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{folder}: the files should be named 0.npy to {len(files) - 1}.npy; missing: {few(missing)}")
    return files


def _read(file: Path) -> Tensor:
    """Channels first and float32; labels, which have no channels, int64."""
    kind = file.parent.name
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: cannot be read as an array of numbers: {error}") from error
    channels = _CHANNELS[kind]
    if array.ndim != 2 + (channels > 0) or (channels and array.shape[-1] != channels):
        wanted = f"(height, width, {channels})" if channels else "(height, width)"
        raise DataError(f"{file}: shape {array.shape}; it should be {wanted}")
    if kind == "label":
        return torch.from_numpy(np.rint(array).astype(np.int64))
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32))
    return tensor.squeeze(0) if kind == "depth" else tensor
