"""`Embedded`: the data source of the four embedded image tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch

from fusion_eval.data.embedded.images import GreyImages
from fusion_eval.data.embedded.mnist import mnist
from fusion_eval.data.embedded.optdigits import optdigits
from fusion_eval.data.embedded.scripts import scripts
from fusion_eval.data.embedded.textures import textures
from fusion_eval.data.source import DataSource, TensorSamples
from fusion_eval.errors import ConfigError

__all__ = ["DATA_SETS", "SPLITS", "Embedded"]

DATA_SETS: dict[str, Callable[[str], GreyImages]] = {
    "optdigits": optdigits,
    "mnist": mnist,
    "scripts": scripts,
    "textures": textures,
}
"""Name to the function that builds one split."""

SPLITS = ("train", "val", "test")


class EmbeddedSamples(TensorSamples):
    """Samples that are the same as long as the process lives: their digest is computed once."""

    @cached_property
    def _digest(self) -> str:
        return super().fingerprint()

    def fingerprint(self) -> str:
        """Digest of the tensors."""
        return self._digest


@dataclass(frozen=True)
class Embedded(DataSource):
    """Real images of 32x32 pixels, built from files that installed packages ship; nothing is ever downloaded.

    Args:
        name: `optdigits`, `mnist`, `scripts` or `textures`.
        split: `train`, `val` or `test`; fixed, and no image is in two of them.

    Raises:
        ConfigError: an unknown name or split.

    Example:
        >>> samples = Embedded("optdigits").load()
        >>> len(samples), samples[0][0].shape, samples.class_names[:3]
        (640, torch.Size([3, 32, 32]), ('0', '1', '2'))
    """

    name: str
    split: str = "test"

    def __post_init__(self) -> None:
        for field, value, known in (("name", self.name, tuple(DATA_SETS)), ("split", self.split, SPLITS)):
            if value not in known:
                raise ConfigError(f"Embedded: {field}={value!r} does not exist; choose one of {', '.join(known)}")

    def load(self) -> EmbeddedSamples:
        """Build the split, once a process: later calls return the same object, so do not write into its tensors.

        Returns:
            Inputs of shape `(n, 3, 32, 32)`, float32 in [-1, 1] (three equal channels), int64 targets, class names.

        Raises:
            DataError: the package that ships the data is not installed.
        """
        return _load(self.name, self.split)


@cache
def _load(name: str, split: str) -> EmbeddedSamples:
    grey = DATA_SETS[name](split)
    inputs = torch.from_numpy(grey.pixels).unsqueeze(1).expand(-1, 3, -1, -1) / 255
    return EmbeddedSamples((inputs - 0.5) / 0.5, torch.from_numpy(grey.targets), grey.class_names)
