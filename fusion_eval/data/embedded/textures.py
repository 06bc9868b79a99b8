"""`textures`: which photograph a grey patch of 32x32 pixels was cut from.

Origin: 13 photographs that scikit-image ships in its wheel. Licences, as `skimage.data` states them: CC0 (brick,
camera, cell, chelsea, coffee, grass, gravel, retina), public domain or no known copyright restrictions (astronaut,
coins, hubble, immunohistochemistry, rocket).

Every photograph is cut into horizontal bands that repeat down the picture: 68 rows for training, 32 for validation, 32
for test, with 4 rows between that are in no split. So no pixel is in two splits, and patches of validation and test do
not overlap at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_eval.data.embedded.images import SIDE, GreyImages, package_file

__all__ = ["PHOTOGRAPHS", "textures"]

# Photograph to its file and the factor by which it is shrunk (the two largest show next to nothing in 32 pixels).
_PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", 1),
    "brick": ("brick.png", 1),
    "camera": ("camera.png", 1),
    "cell": ("cell.png", 1),
    "chelsea": ("chelsea.png", 1),
    "coffee": ("coffee.png", 1),
    "coins": ("coins.png", 1),
    "grass": ("grass.png", 1),
    "gravel": ("gravel.png", 1),
    "hubble": ("hubble_deep_field.jpg", 2),
    "immunohistochemistry": ("ihc.png", 1),
    "retina": ("retina.jpg", 2),
    "rocket": ("rocket.jpg", 1),
}
PHOTOGRAPHS = tuple(_PHOTOGRAPHS)
"""Classes in the order of their target."""


@dataclass(frozen=True)
class _Band:
    top: int  # row inside the period
    height: int
    stride: tuple[int, int]  # rows, columns between two patches
    most: int  # patches of one photograph


_PERIOD = 144
_BANDS = {
    "train": _Band(top=0, height=68, stride=(12, 8), most=400),
    "val": _Band(top=72, height=SIDE, stride=(SIDE, SIDE), most=25),
    "test": _Band(top=108, height=SIDE, stride=(SIDE, SIDE), most=51),
}
_LEAST_CONTRAST = 5.0
"""Standard deviation in grey levels below which a patch is left out: black sky is the same in every picture."""


def textures(split: str) -> GreyImages:
    """5,050 train, 311 val and 471 test patches of 13 photographs (classes)."""
    pixels, targets = [], []
    for target, (file, shrink) in enumerate(_PHOTOGRAPHS.values()):
        patches = np.stack(list(_patches(_grey(file, shrink), _BANDS[split])))
        patches = patches[patches.std(axis=(1, 2)) >= _LEAST_CONTRAST]
        evenly = np.linspace(0, len(patches) - 1, min(len(patches), _BANDS[split].most)).astype(int)
        pixels.append(patches[evenly])
        targets.append(np.full(len(evenly), target))
    return GreyImages(np.concatenate(pixels), np.concatenate(targets).astype(np.int64))


def _grey(file: str, shrink: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(package_file("skimage", f"data/{file}")) as photograph:
        return np.asarray(photograph.convert("L").reduce(shrink))


def _patches(photograph: NDArray[np.uint8], band: _Band) -> Iterator[NDArray[np.uint8]]:
    height, width = photograph.shape
    for start in range(band.top, height, _PERIOD):
        end = min(start + band.height, height)
        for top in range(start, end - SIDE + 1, band.stride[0]):
            for left in range(0, width - SIDE + 1, band.stride[1]):
                yield photograph[top : top + SIDE, left : left + SIDE]
