"""What a data source is: a value that says where samples are, and the samples it loads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fusion_eval.data.digest import digest_content

__all__ = ["DataSource", "FromFiles", "Samples", "TensorSamples"]


class DataSource(ABC):
    """Where the samples of a task come from.

    A source is a frozen dataclass: its constructor only stores arguments, `load` touches disk or network.
    So a config can be composed, built and checked without any data on the machine.
    """

    @abstractmethod
    def load(self) -> Samples:
        """Read the samples.

        Raises:
            DataError: if the data is missing or malformed; the message names the file and the fix.
        """


class Samples(Dataset[tuple[Any, Any]], ABC):
    """A loaded, finite, map-style data set whose items are `(input, target)`.

    `input` is a tensor or a mapping of tensors that is passed to the model as keyword arguments; for classification
    `target` is an integer in `[0, len(class_names))`, other tasks say what they take.

    Attributes:
        class_names: The classes in the order of their target, or None where the source does not know them.
        groups: Shape `(n,)`, integers or strings: samples of one group (frames of a video, questions on one text) are
            not independent, so they share an error. None where every sample stands for itself.
    """

    class_names: tuple[str, ...] | None = None
    groups: np.ndarray | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...

    def collate(self, items: Sequence[tuple[Any, Any]]) -> Any:
        """Make a batch of items; where they differ in length, this is the place to pad."""
        return default_collate(list(items))

    def lengths(self) -> np.ndarray | None:
        """How long each input is, shape `(n,)`: samples of similar length then share a batch. None: all are alike."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """A hexadecimal digest of the content (inputs, targets, their order, preprocessing), equal on every machine."""


@runtime_checkable
class FromFiles(Protocol):
    """Samples that know which files they read, beside those that their source names: what is known of the content of
    these files need not be found out again as long as they do not change.
    """

    def files(self) -> Sequence[Path]:
        """The files and directories; empty: unknown."""
        ...


class TensorSamples(Samples):
    """Samples that lie in memory as two tensors.

    Args:
        inputs: Shape `(n, ...)`, any dtype.
        targets: Shape `(n,)`, int64 for classification.
        class_names: The classes in the order of their target.
        groups: Shape `(n,)`, see `Samples`.

    Example:
        >>> import torch
        >>> samples = TensorSamples(torch.zeros(3, 2), torch.tensor([0, 1, 0]), ("no", "yes"))
        >>> len(samples), samples[1]
        (3, (tensor([0., 0.]), tensor(1)))
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        class_names: Sequence[str] | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs but {len(targets)} targets")
        if groups is not None and groups.shape != (len(targets),):
            raise ValueError(f"groups of shape {groups.shape} for {len(targets)} targets")
        self.inputs = inputs
        self.targets = targets
        self.class_names = None if class_names is None else tuple(class_names)
        self.groups = groups

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def fingerprint(self) -> str:
        """Digest of the tensors, and of the groups where there are any: errors depend on them."""
        groups = [] if self.groups is None else [self.groups.tolist()]
        return digest_content([self.inputs, self.targets, *groups])
