"""Digits in print: a data source for fusion_eval, from a package of its own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["PrintedDigits"]

_FACES = {
    "train": ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "DejaVuSans-Oblique"),
    "test": ("DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSerif-Italic", "DejaVuSans-Bold"),
}
_SIZES = range(18, 28, 2)
_SIDE = 32


@dataclass(frozen=True)
class PrintedDigits(DataSource):
    """The digits 0 to 9 in four faces of DejaVu and five sizes, white on black, 32x32 pixels: 200 samples a split.

    Samples of one face are alike, so they are a group: their errors are not independent.

    Args:
        split: `train` or `test`; a face is in one of them only.

    Raises:
        ConfigError: an unknown split.
    """

    split: str = "test"

    def __post_init__(self) -> None:
        if self.split not in _FACES:
            raise ConfigError(f"PrintedDigits: no split {self.split!r}{suggest(self.split, _FACES)}")

    def load(self) -> TensorSamples:
        """Draw the split.

        Returns:
            Inputs of shape `(200, 3, 32, 32)`, float32 in [-1, 1], as the embedded encoder takes them.

        Raises:
            DataError: matplotlib is not installed.
        """
        drawn = [
            (_draw(face, size, digit), digit, face)
            for face in _FACES[self.split]
            for size in _SIZES
            for digit in range(10)
        ]
        images, digits, faces = zip(*drawn, strict=True)
        inputs = torch.from_numpy(np.stack(images)).unsqueeze(1).expand(-1, 3, -1, -1) / 127.5 - 1
        return TensorSamples(inputs, torch.tensor(digits), [str(digit) for digit in range(10)], np.array(faces))


def _draw(face: str, size: int, digit: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (_SIDE, _SIDE))
    middle = (_SIDE / 2, _SIDE / 2)
    ImageDraw.Draw(image).text(middle, str(digit), fill=255, font=ImageFont.truetype(_font(face), size), anchor="mm")
    return np.array(image)


def _font(face: str) -> str:
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise DataError("printed digits need the fonts of matplotlib: pip install matplotlib")
    return str(Path(spec.origin).parent / "mpl-data/fonts/ttf" / f"{face}.ttf")
