"""`Embedded`: the data source of the four embedded image tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from fusion_eval.data.embedded.images import DIGITS, GreyImages
from fusion_eval.data.embedded.kept import kept_or_built
from fusion_eval.data.embedded.mnist import mnist
from fusion_eval.data.embedded.optdigits import optdigits
from fusion_eval.data.embedded.scripts import SCRIPTS, scripts
from fusion_eval.data.embedded.textures import PHOTOGRAPHS, textures
from fusion_eval.data.prepared import DataCache
from fusion_eval.data.source import DataSource, TensorSamples
from fusion_eval.errors import ConfigError

__all__ = ["DATA_SETS", "SPLITS", "Embedded"]

DATA_SETS: dict[str, tuple[Callable[[str], GreyImages], tuple[str, ...]]] = {
    "optdigits": (optdigits, DIGITS),
    "mnist": (mnist, DIGITS),
    "scripts": (scripts, SCRIPTS),
    "textures": (textures, PHOTOGRAPHS),
}
"""Name to the function that builds one split, and the classes."""

SPLITS = ("train", "val", "test")

_loaded: dict[Embedded, EmbeddedSamples] = {}
"""What this process has loaded."""


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

    def load(self, cache: DataCache | None = None) -> EmbeddedSamples:
        """Build the split, once a process: later calls return the same object, so do not write into its tensors.

        Args:
            cache: Where other processes may have left what was built, if it is on disk; None: it is built.

        Returns:
            Inputs of shape `(n, 3, 32, 32)`, float32 in [-1, 1] (three equal channels), int64 targets, class names.

        Raises:
            DataError: the package that ships the data is not installed.
        """
        return _loaded.get(self) or _loaded.setdefault(self, self._load(cache or DataCache("off")))

    def _load(self, cache: DataCache) -> EmbeddedSamples:
        build, class_names = DATA_SETS[self.name]
        grey = kept_or_built(self.name, self.split, build, cache)
        levels = (torch.from_numpy(grey.pixels).unsqueeze(1) / 255 - 0.5) / 0.5
        inputs = levels.expand(-1, 3, -1, -1).contiguous()
        return EmbeddedSamples(inputs, torch.from_numpy(grey.targets), class_names)
