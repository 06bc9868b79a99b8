"""What is done to an input before the model sees it, and the samples it is done to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import Samples
from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageTransform", "TransformedSamples", "identify_transform"]

_RESIZES = ("shorter", "exact")
_RESAMPLES = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class ImageTransform:
    """Resize, crop the centre, scale to [0, 1] and normalise, with PIL and NumPy alone.

    The steps and their rounding are those of the Hugging Face image processors (`CLIPImageProcessorPil`). Where size
    and crop differ by an odd number of pixels, torchvision's `CenterCrop` may cut one pixel further right or down.
    The defaults are CLIP's (arXiv 2103.00020).

    Args:
        size: Side in pixels that the image is resized to.
        resize: `shorter`: the shorter side becomes `size`, the aspect ratio stays; `exact`: both sides become `size`.
        crop: Side in pixels of the square cut from the centre, at most `size`; None means `size`.
        mean: Subtracted from each channel (red, green, blue), in units of the full range [0, 1].
        std: What each channel is divided by afterwards.
        resample: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or `lanczos`; antialiased where it shrinks.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> from PIL import Image
        >>> half = ImageTransform(size=32, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
        >>> red = half(Image.new("RGB", (64, 48), (255, 0, 0)))
        >>> red.shape, red.dtype, red[:, 0, 0]
        (torch.Size([3, 32, 32]), torch.float32, tensor([ 1., -1., -1.]))
    """

    size: int = 224
    resize: str = "shorter"
    crop: int | None = None
    mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073)
    std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES:
            raise ConfigError(f"ImageTransform: resize={self.resize!r}; choose one of {', '.join(_RESIZES)}")
        if self.resample not in _RESAMPLES:
            raise ConfigError(f"ImageTransform: resample={self.resample!r}; choose one of {', '.join(_RESAMPLES)}")
        if self.size < 1:
            raise ConfigError(f"ImageTransform: size={self.size}; it should be at least 1 pixel")
        if self.crop is not None and not 1 <= self.crop <= self.size:
            raise ConfigError(f"ImageTransform: crop={self.crop}; it should be between 1 and size={self.size}")
        for field in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) != 3 or not np.isfinite(values).all() or (field == "std" and min(values) <= 0):
                wanted = "three positive numbers" if field == "std" else "three numbers"
                raise ConfigError(f"ImageTransform: {field}={list(values)}; it should be {wanted} (red, green, blue)")
            # YAML gives lists, Python tuples: equal transforms must be equal, hashable, and have one repr.
            object.__setattr__(self, field, values)

    def __call__(self, image: Image | np.ndarray | Tensor) -> Tensor:
        """Transform one image.

        Args:
            image: A PIL image of any 8-bit mode (transparency is dropped), or a uint8 array `(h, w)` or `(h, w, 3)`.

        Returns:
            float32 of shape `(3, crop, crop)`.

        Raises:
            DataError: the image has more than 8 bits a channel, or the array has another dtype or shape.
        """
        pixels = np.asarray(self._square(_as_rgb(image))).transpose(2, 0, 1)
        # One plane a channel and in place: ten times as fast as broadcasting over the last axis, bit for bit the same.
        planes = np.ascontiguousarray(pixels).astype(np.float32)
        planes /= np.float32(255)
        planes -= np.array(self.mean, dtype=np.float32)[:, None, None]
        planes /= np.array(self.std, dtype=np.float32)[:, None, None]
        return torch.from_numpy(planes)

    def _square(self, image: Image) -> Image:
        from PIL.Image import Resampling

        width, height = image.size
        if self.resize == "exact":
            width, height = self.size, self.size
        else:
            shorter = min(width, height)
            width, height = int(self.size * width / shorter), int(self.size * height / shorter)
        resized = image.resize((width, height), Resampling[self.resample.upper()])
        side = self.crop or self.size
        left, top = (width - side) // 2, (height - side) // 2
        return resized.crop((left, top, left + side, top + side))


class TransformedSamples(Samples):
    """Samples whose inputs go through a transform when they are asked for.

    Args:
        samples: What the transform is applied to.
        transform: From an input of `samples` to a tensor, or to a mapping of tensors.

    Raises:
        DataError: the transform cannot be told from another one (see `identify_transform`).
    """

    def __init__(self, samples: Samples, transform: Callable[[Any], Any]) -> None:
        self._samples = samples
        self._transform = transform
        self._identity = identify_transform(transform)
        self.class_names = samples.class_names
        self.groups = samples.groups

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        value, target = self._samples[index]
        try:
            return self._transform(value), target
        except DataError as error:
            raise DataError(f"sample {index}: {error}") from error

    def fingerprint(self) -> str:
        """Digest of the untransformed content and the transform's identity."""
        return digest_content([self._samples.fingerprint(), self._identity])


def identify_transform(transform: Callable[..., Any]) -> str:
    """Text that differs between transforms that do different things, and is equal on every machine for the same one.

    A function is known by its name and source, anything else by its class and its repr. The repr has to show all
    parameters, as those of dataclasses and torchvision's transforms do.

    Raises:
        DataError: a lambda, a nested function, or an object whose repr shows no more than its address in memory.

    Example:
        >>> identify_transform(partial(round, ndigits=2))
        "builtins.round () [('ndigits', 2)]"
    """
    if inspect.isbuiltin(transform) and isinstance(transform.__self__, (ModuleType, type, NoneType)):
        return f"{transform.__module__}.{transform.__qualname__}"
    if inspect.isfunction(transform) and "<" not in transform.__qualname__:
        with suppress(OSError):  # no source: typed at a prompt
            return f"{transform.__module__}.{transform.__qualname__} {inspect.getsource(transform)}"
    if isinstance(transform, partial):
        function = identify_transform(transform.func)
        text = f"{function} {transform.args!r} {sorted(transform.keywords.items())!r}"
    else:
        text = f"{type(transform).__module__}.{type(transform).__qualname__} {transform!r}"
    if " at 0x" in text:
        raise DataError(
            f"transform {transform!r} cannot be told from another one: use a function at the top level of a file, "
            "or a class whose repr shows its parameters (a dataclass)"
        )
    return text


def _as_rgb(image: Image | np.ndarray | Tensor) -> Image:
    from PIL.Image import Image, fromarray

    if not isinstance(image, Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            found = f"{array.dtype} {array.shape}"
            raise DataError(f"ImageTransform takes uint8 arrays of shape (h, w) or (h, w, 3), found {found}")
        image = fromarray(array)
    if image.mode[0] in "IF":  # PIL would clip 16-bit values at 255 without a word
        name = getattr(image, "filename", "a PIL image")
        raise DataError(f"ImageTransform takes 8 bits a channel, {name} has more (mode {image.mode})")
    return image.convert("RGB")
