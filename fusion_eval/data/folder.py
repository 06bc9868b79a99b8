"""Directories of images, one sub-directory a class."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.data.transform import ImageTransform, TransformedSamples
from fusion_eval.errors import DataError, suggest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ImageFolder"]

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageFolder(DataSource):
    """Images at `root/split/class/**/*.png`, numbered as torchvision's `ImageFolder` does.

    Classes are the sub-directories in the order of their names (`10` before `2`), images lie in the order of class and
    path. An empty sub-directory is a class without samples: without it the classes after it would be numbered
    differently from the training split's. Hidden files, other files, and images beside the class directories are
    passed over. Images are read when they are asked for; an EXIF orientation is ignored, as torchvision does.

    Args:
        root: Directory of the data set.
        split: Sub-directory of `root` that holds the class directories; None if `root` holds them itself.
        transform: From a PIL image to what the model takes; None means `ImageTransform()`: CLIP's.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as root:
        ...     Path(root, "test", "cat").mkdir(parents=True)
        ...     Image.new("RGB", (8, 8)).save(f"{root}/test/cat/0.png")
        ...     samples = ImageFolder(root).load()
        ...     samples.class_names, samples[0][0].shape, samples[0][1]
        (('cat',), torch.Size([3, 224, 224]), 0)
    """

    root: str
    split: str | None = "test"
    transform: Callable[..., Any] | None = None

    def load(self) -> Samples:
        """List the images.

        Returns:
            Items `(transform(image), target)` with an integer target; reading an image that is broken raises a
            DataError that names the file.

        Raises:
            DataError: a directory is missing, or holds no class or no image, or Pillow is not installed.
        """
        if find_spec("PIL") is None:
            raise DataError('images need an extra: pip install "fusion-eval[images]"')
        directory = self._directory()
        classes = sorted(path.name for path in directory.iterdir() if path.is_dir() and not _hidden(path))
        if not classes:
            raise DataError(f"{directory}: no class directories; images should lie at {directory}/<class>/<image>")
        files = [(path, target) for target, name in enumerate(classes) for path in _images(directory / name)]
        if not files:
            suffixes = ", ".join(sorted(_SUFFIXES))
            raise DataError(f"{directory}: no images in {len(classes)} class directories; known suffixes: {suffixes}")
        return TransformedSamples(_ImageFiles(files, tuple(classes)), self.transform or ImageTransform())

    def _directory(self) -> Path:
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"{root}: no such directory; root should be the directory of the data set")
        if self.split is None or (root / self.split).is_dir():
            return root / (self.split or "")
        splits = [path.name for path in root.iterdir() if path.is_dir() and not _hidden(path)]
        raise DataError(f"{root}: no split {self.split!r}{suggest(self.split, splits)}")


class _ImageFiles(Samples):
    """PIL images, decoded one by one when they are asked for."""

    def __init__(self, files: list[tuple[Path, int]], class_names: tuple[str, ...]) -> None:
        self._files = files
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        path, target = self._files[index]
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
            raise DataError(f"{path}: not a readable image: {error}") from error
        return image, target

    def fingerprint(self) -> str:
        return digest_content((path.read_bytes(), target) for path, target in self._files)


def _images(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in found if path.is_file() and not _hidden(path))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
