"""What is done to an input before the model sees it, and the samples it is done to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import FromFiles, Samples
from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

__all__ = ["ImageTransform", "TransformedSamples", "as_rgb", "identify_transform", "normalise_pixels"]

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
        return self.normalise(self.pixels(image))

    def split(self) -> tuple[Callable[[Any], Tensor], Callable[[Tensor], Tensor]] | None:
        """The two halves of a call: what takes time and gives one byte a number, and what a device does at once.

        Returns:
            `pixels`, from an image to uint8, and `normalise`, from a batch of these to float32. A transform returns
            None if that is not all there is to it.
        """
        return self.pixels, self.normalise

    def pixels(self, image: Image | np.ndarray | Tensor) -> Tensor:
        """Resize and crop one image: all that takes time, and what comes of it needs one byte a number.

        Args:
            image: As for a call.

        Returns:
            uint8 of shape `(3, crop, crop)`.

        Raises:
            DataError: as a call does.
        """
        return torch.from_numpy(np.asarray(self._square(as_rgb(image))).transpose(2, 0, 1).copy())

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale to [0, 1] and normalise, on the device where the pixels are.

        Args:
            pixels: uint8 of shape `(..., 3, h, w)`.

        Returns:
            float32 of the same shape, equal to the bit wherever it is computed.
        """
        return normalise_pixels(pixels, self.mean, self.std)

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

    A transform may also define `collate(items)`, which makes a batch of transformed items in place of
    `Samples.collate`, and `length(value)`, an integer that says how long an untransformed input is: see
    `Samples.lengths`.

    Args:
        samples: What the transform is applied to.
        transform: From an input of `samples` to a tensor, or to a mapping of tensors.

    Attributes:
        identity: What the transform does, as text.

    Raises:
        DataError: the transform cannot be told from another one (see `identify_transform`).
    """

    def __init__(self, samples: Samples, transform: Callable[[Any], Any]) -> None:
        self._samples = samples
        self._transform = transform
        self.identity = identify_transform(transform)
        self._lengths: np.ndarray | None = None
        self.class_names = samples.class_names
        self.groups = samples.groups

    @property
    def untransformed(self) -> Samples:
        """What the transform is applied to."""
        return self._samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        value, target = self._samples[index]
        try:
            return self._transform(value), target
        except DataError as error:
            raise DataError(f"sample {index}: {error}") from error

    def collate(self, items: Sequence[tuple[Any, Any]]) -> Any:
        """Make a batch as the transform does, or as the samples do."""
        collate = getattr(self._transform, "collate", self._samples.collate)
        return collate(items)

    def lengths(self) -> np.ndarray | None:
        """How long each input is before the transform, measured once; None if neither transform nor samples know."""
        length = getattr(self._transform, "length", None)
        if length is None:
            return self._samples.lengths()
        if self._lengths is None:
            self._lengths = np.array([length(self._samples[index][0]) for index in range(len(self))], dtype=np.int64)
        return self._lengths

    def split(self) -> tuple[Samples, Callable[[Tensor], Tensor]] | None:
        """The same samples with pixels as inputs, and what makes of a batch of these the inputs that the samples have.

        Returns:
            None unless the transform has a method `split` as `ImageTransform` has, and does not collate itself.
        """
        parts = None if hasattr(self._transform, "collate") else getattr(self._transform, "split", lambda: None)()
        return None if parts is None else (TransformedSamples(self._samples, parts[0]), parts[1])

    def files(self) -> Sequence[Path]:
        """The files that the untransformed samples are read from, where they tell; empty: unknown."""
        return self._samples.files() if isinstance(self._samples, FromFiles) else ()

    def fingerprint(self) -> str:
        """Digest of the untransformed content and the transform's identity."""
        return digest_content([self._samples.fingerprint(), self.identity])


def normalise_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale pixels to [0, 1], subtract the mean and divide by the standard deviation of each channel.

    Args:
        pixels: uint8 of shape `(..., c, h, w)`.
        mean: Of the `c` channels, in units of the full range.
        std: Likewise.

    Returns:
        float32 of the same shape and on the same device, equal to the bit on each: it is the rounding of the Hugging
        Face processors.
    """
    means, stds = (_of_channels(tuple(values), pixels.device) for values in (mean, std))
    planes = pixels.to(torch.float32)
    # On a CPU image by image: what the next step takes up is then still in its cache, three times as fast.
    for part in planes.flatten(0, -4) if planes.dim() > 3 and not planes.is_cuda else [planes]:
        part.div_(255).sub_(means).div_(stds)
    return planes


@lru_cache(maxsize=64)
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Shape `(c, 1, 1)`; kept, as a GPU finishes all that it has been given before it takes a copy like this."""
    return torch.tensor(values)[:, None, None].to(device)


def identify_transform(transform: Callable[..., Any]) -> str:
    """Text that differs between transforms that do different things, and is equal on every machine for the same one.

    A function is known by its name and source. Anything else is known by its class and, if it has a method
    `identity()`, the text this returns (of a tokenizer: a digest of its files, wherever they lie), or else its repr,
    which has to show all parameters, as those of dataclasses and torchvision's transforms do.

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
        described = transform.identity() if hasattr(transform, "identity") else repr(transform)
        text = f"{type(transform).__module__}.{type(transform).__qualname__} {described}"
    if " at 0x" in text:
        raise DataError(
            f"transform {transform!r} cannot be told from another one: use a function at the top level of a file, "
            "or a class whose repr shows its parameters (a dataclass)"
        )
    return text


def as_rgb(image: Image | np.ndarray | Tensor) -> Image:
    """A PIL image of mode RGB.

    Args:
        image: A PIL image of any 8-bit mode (transparency is dropped), or a uint8 array `(h, w)` or `(h, w, 3)`.

    Raises:
        DataError: the image has more than 8 bits a channel, or the array has another dtype or shape.
    """
    from PIL.Image import Image, fromarray

    if not isinstance(image, Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            found = f"{array.dtype} {array.shape}"
            raise DataError(f"an image should be a uint8 array of shape (h, w) or (h, w, 3), found {found}")
        image = fromarray(array)
    if image.mode[0] in "IF":  # PIL would clip 16-bit values at 255 without a word
        name = getattr(image, "filename", "") or "this one"
        raise DataError(
            f"an image should have 8 bits a channel, {name} has more (mode {image.mode}); scale its values to 0..255 "
            "and store it anew"
        )
    return image.convert("RGB")
