"""Pairs of samples, half of them of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data import DataSource, Samples
from fusion_eval.data.digest import digest_content
from fusion_eval.errors import ConfigError, DataError

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs(DataSource):
    """Pairs of the samples of another source: each sample with one of its class, or with one of another class in turn.

    Args:
        source: Where the samples come from; targets are classes.
        seed: Of the draw of partners.

    Raises:
        ConfigError: `source` is no data source.
    """

    source: DataSource
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.source, DataSource):
            raise ConfigError(f"Pairs: source should be a fusion_eval.data source, found {self.source!r}")

    def load(self) -> Samples:
        """Draw a partner for every sample.

        Returns:
            Items `(pair, same)`: two inputs of shape `(2, ...)`, and 1 for one class or 0 for two.

        Raises:
            DataError: from the source; or a class has one sample only, or is the only one.
        """
        samples = self.source.load()
        classes = np.array([int(samples[index][1]) for index in range(len(samples))])
        _, counts = np.unique(classes, return_counts=True)
        if len(counts) < 2 or counts.min() < 2:
            raise DataError(f"{self.source}: pairs need two classes or more, and two samples or more of each")
        random = np.random.RandomState(self.seed)  # NumPy promises never to change its streams
        same = np.arange(len(classes)) % 2
        partners = [self._partner(random, classes, index, bool(wanted)) for index, wanted in enumerate(same)]
        return _Paired(samples, np.array(partners), same)

    def _partner(self, random: np.random.RandomState, classes: np.ndarray, index: int, same: bool) -> int:
        """Another sample, of the class of this one or of any other class."""
        fits = (classes == classes[index]) == same
        fits[index] = False
        return int(random.choice(np.flatnonzero(fits)))


class _Paired(Samples):
    def __init__(self, samples: Samples, partners: np.ndarray, same: np.ndarray) -> None:
        self._samples = samples
        self._partners = partners
        self._same = same

    def __len__(self) -> int:
        return len(self._same)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        first, second = self._samples[index][0], self._samples[self._partners[index]][0]
        return torch.stack([first, second]), int(self._same[index])

    def fingerprint(self) -> str:
        return digest_content([self._samples.fingerprint(), self._partners, self._same])
