"""The image processor of a Hugging Face checkpoint as a transform."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.transform import as_rgb, normalise_pixels
from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

__all__ = ["CheckpointProcessor"]

_NOT_BEHAVIOUR = ("_processor_class", "processor_class", "auto_map", "transformers_version")
"""Entries of a processor's configuration that say where it comes from, and not what it does."""


@dataclass(frozen=True)
class CheckpointProcessor:
    """What a checkpoint's `preprocessor_config.json` says, done by transformers with PIL and never with torchvision.

    The two versions differ in the last digits, and published numbers were made with PIL. The processor is loaded once
    a process, when the first image comes. Images become RGB before, as every processor of CLIP does itself.

    `ImageTransform` does the same as the processor of CLIP and is faster; this one is right for any checkpoint.

    Args:
        path: A directory with `preprocessor_config.json` or `processor_config.json`; or `owner/name` on the hub, or
            `owner/name@revision` as model pools have it.
        revision: Commit, tag or branch on the hub.

    Raises:
        ConfigError: `path` is a file inside a package, as the base of the embedded model pool is.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from transformers import ViTImageProcessorPil
        >>> with TemporaryDirectory() as folder:
        ...     _ = ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
        ...     CheckpointProcessor(folder)(Image.new("RGB", (64, 48), (255, 0, 0)))[:, 0, 0]
        tensor([ 1., -1., -1.])
    """

    path: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.path.startswith("pkg://"):
            raise ConfigError(
                f"path: {self.path} has no image processor. If this is modelpool.base, a model pool is missing: add "
                "the one with the name of the task pool, such as modelpool=clip_vit_b32_ta8"
            )

    def __call__(self, image: Image | np.ndarray | Tensor) -> Tensor | dict[str, Tensor]:
        """Process one image.

        Args:
            image: A PIL image of any 8-bit mode (transparency is dropped), or a uint8 array `(h, w)` or `(h, w, 3)`.

        Returns:
            float32 of shape `(3, height, width)`; where the processor makes more than `pixel_values`, all it makes by
            name.

        Raises:
            DataError: the processor cannot be loaded or applied, or the image has more than 8 bits a channel.
        """
        processor = _load(self.path, self.revision)
        try:
            processed = processor(as_rgb(image), return_tensors="pt")
        except ValueError as error:
            raise DataError(f"{self.path}: {type(processor).__name__} refuses the image: {error}") from error
        values = {name: value[0] for name, value in processed.items()}
        return values["pixel_values"] if values.keys() == {"pixel_values"} else values

    def split(self) -> tuple[Callable[[Any], Tensor], Callable[[Tensor], Tensor]] | None:
        """The two halves of a call, as `ImageTransform.split`, where the processor ends with rescale and normalise.

        Returns:
            None if that is not all there is to it, as a trial on two images shows.
        """
        normalise = _normalise_after(self, _load(self.path, self.revision))
        return None if normalise is None else (self.pixels, normalise)

    def pixels(self, image: Image | np.ndarray | Tensor) -> Tensor:
        """Process one image but for rescale and normalise.

        Args:
            image: As for a call.

        Returns:
            uint8 of shape `(3, height, width)`, if `split` returns it.
        """
        processed = _load(self.path, self.revision)(
            as_rgb(image), return_tensors="pt", do_rescale=False, do_normalize=False
        )
        pixels: Tensor = processed["pixel_values"][0]
        return pixels

    def identity(self) -> str:
        """What the processor does, wherever its file lies and whatever keys it leaves to their defaults."""
        processor = _load(self.path, self.revision)
        config = json.loads(processor.to_json_string())
        behaviour = {name: value for name, value in config.items() if name not in _NOT_BEHAVIOUR}
        return f"{type(processor).__name__} {json.dumps(behaviour, sort_keys=True)}"


@functools.cache
def _normalise_after(transform: CheckpointProcessor, processor: Any) -> Callable[[Tensor], Tensor] | None:
    """What makes of `pixels` what a call returns; None if nothing does. Tried once for each loaded processor."""
    steps = ("do_rescale", "do_normalize")
    if not all(getattr(processor, step, False) for step in steps) or getattr(processor, "do_pad", False):
        return None
    normalise = partial(normalise_pixels, mean=list(processor.image_mean), std=list(processor.image_std))
    for height, width in ((90, 120), (301, 203)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected, pixels = transform(image), transform.pixels(image)
        if isinstance(expected, dict) or pixels.dtype != torch.uint8 or not torch.equal(normalise(pixels), expected):
            return None
    return normalise


@functools.cache
def _load(path: str, revision: str | None) -> Any:
    """The processor, read once in this process; code that comes with a checkpoint is not run."""
    try:
        from transformers import AutoImageProcessor
    except ImportError as error:
        raise DataError('Image processors need an extra: pip install "fusion-eval[hf]"') from error
    if Path(path).is_absolute() and not Path(path).is_dir():
        raise DataError(f"{path}: no such directory; expected one with preprocessor_config.json")
    name, _, pinned = (path, "", "") if Path(path).is_dir() else path.partition("@")
    try:
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            name, revision=revision or pinned or None, backend="pil", trust_remote_code=False
        )
    except Exception as error:  # network, cache and file formats, each with errors of its own
        reason = str(error).strip().split("\n", 1)[0]
        fix = (
            "expected the preprocessor_config.json that save_pretrained of an image processor writes"
            if Path(path).is_dir()
            else f"there is no directory {Path(path).absolute()}: if one is meant, correct the path; if a repository "
            f"on the Hugging Face hub, run transformers.AutoImageProcessor.from_pretrained({name!r}, "
            f"revision={revision or pinned or None!r}).save_pretrained('DIR') where there is a network, bring DIR here "
            "and set path to it"
        )
        raise DataError(f"{path}: no image processor can be loaded: {reason}; {fix}") from error
