"""Corruptions of images, as in ImageNet-C, for measuring robustness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fusion_eval.data.corruption_kinds import KINDS, PARAMETERS
from fusion_eval.data.transform import as_rgb, identify_transform
from fusion_eval.errors import ConfigError, suggest

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Corruption"]


@dataclass(frozen=True)
class Corruption:
    """One corruption of ImageNet-C (arXiv 1903.12261, section 3) as a transform of any data set of images.

    Kinds, each with five severities: `gaussian_noise` and `impulse_noise` in each channel of each pixel, `motion_blur`
    in a direction within 45 degrees of the horizontal, `spatter` of water (severity 1 to 3) or mud (4 and 5),
    `contrast`, `pixelate` and `jpeg`. Their parameters are those of the authors' code (github.com/hendrycks/robustness,
    `make_imagenet_c.py` and `make_cifar_c.py`), which also truncates to 8 bits, as is done here. They are in units of
    pixels: `imagenet` is meant for images of 224x224, `cifar` for 32x32, and images are corrupted at the size they
    have. Unlike the published files of ImageNet-C, the result is not saved as a JPEG once more.

    Random numbers are seeded by the pixels: an image is corrupted in the same way whenever, wherever and beside which
    other images it is read, and with the same draws in each severity, so severities are compared in pairs.

    Args:
        kind: See above.
        severity: 1 (weak) to 5 (strong).
        transform: What comes next, such as `ImageTransform`; None: the corrupted PIL image is the result.
        parameters: `imagenet` or `cifar`.
        seed: Another one gives other noise.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> from PIL import Image
        >>> half = Image.fromarray(np.repeat(np.array([[0, 200]], dtype=np.uint8), 16, axis=1))
        >>> np.unique(np.asarray(Corruption("contrast", 5)(half))).tolist()
        [95, 105]
    """

    kind: str
    severity: int
    transform: Callable[..., Any] | None = None
    parameters: str = "imagenet"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Corruption: kind={self.kind!r}{suggest(self.kind, KINDS)}")
        if self.severity not in range(1, 6):
            raise ConfigError(f"Corruption: severity={self.severity!r}; it should be 1, 2, 3, 4 or 5")
        if self.parameters not in PARAMETERS:
            raise ConfigError(f"Corruption: parameters={self.parameters!r}{suggest(self.parameters, PARAMETERS)}")

    def __call__(self, image: Image | np.ndarray | Tensor) -> Any:
        """Corrupt one image.

        Args:
            image: A PIL image of any 8-bit mode (transparency is dropped), or a uint8 array `(h, w)` or `(h, w, 3)`.

        Returns:
            What `transform` makes of it, or a PIL image of mode RGB and the same size.

        Raises:
            DataError: the image has more than 8 bits a channel, or the array has another dtype or shape.
        """
        from PIL.Image import fromarray

        pixels = np.asarray(as_rgb(image))
        parameter = PARAMETERS[self.parameters][self.kind][self.severity - 1]
        corrupted = fromarray(KINDS[self.kind](pixels, parameter, self._random(pixels)))
        return corrupted if self.transform is None else self.transform(corrupted)

    def split(self) -> tuple[Callable[[Any], Tensor], Callable[[Tensor], Tensor]] | None:
        """The corruption with the first half of what comes next, and the second half: see `ImageTransform.split`.

        Corrupted images are then prepared once, and kept as bytes.
        """
        halves = getattr(self.transform, "split", lambda: None)()
        return None if halves is None else (replace(self, transform=halves[0]), halves[1])

    def identity(self) -> str:
        """What this and the next transform do."""
        following = None if self.transform is None else identify_transform(self.transform)
        return repr([self.kind, self.severity, self.parameters, self.seed, following])

    def _random(self, pixels: np.ndarray) -> np.random.RandomState:
        """RandomState, because NumPy promises never to change its streams (NEP 19)."""
        digest = hashlib.blake2b(f"{self.kind} {self.seed} {pixels.shape} ".encode(), digest_size=32)
        digest.update(pixels.tobytes())
        return np.random.RandomState(np.frombuffer(digest.digest(), dtype="<u4"))
