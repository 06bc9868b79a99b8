"""Where batches come from: tensors in memory, a store of prepared samples, the device itself, or the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from fusion_eval.data import Samples, TensorSamples
from fusion_eval.data.prepared.store import Store, take_rows
from fusion_eval.engine.batch_size import BatchSize

__all__ = ["Batch", "Feed", "ItemReader", "Reader", "StoreReader", "TensorReader"]


class Batch:
    """Samples on their way through the model.

    No collection of those that Lightning goes through: it would round targets to the precision of the model.

    Attributes:
        indices: Shape `(n,)`: which samples.
        data: What `Samples.collate` makes of them, but for what the reader leaves to `finish`.
    """

    def __init__(self, indices: np.ndarray, data: Any) -> None:
        self.indices = indices
        self.data = data

    def to(self, device: torch.device, **how: Any) -> Batch:
        """The same on another device; Lightning moves a batch with it."""
        return Batch(self.indices, move_data_to_device(self.data, device))

    def pin_memory(self) -> Batch:
        """The same in pinned memory; torch's loader pins a batch with it."""
        return Batch(self.indices, _pinned(self.data))


class Reader(Protocol):
    """Reads batches.

    Attributes:
        waits: Whether reading takes so long that processes of its own help.
        on_device: Whether batches lie on the device already, and were checked before they came there.
    """

    waits: bool
    on_device: bool

    def read(self, indices: np.ndarray) -> Any:
        """A batch of these samples, in this order."""
        ...

    def finish(self, data: Any) -> Any:
        """What is left to do on the device."""
        ...


class ItemReader:
    """Makes every sample anew."""

    waits = True
    on_device = False

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def read(self, indices: np.ndarray) -> Any:
        """Items, collated."""
        return self._samples.collate([self._samples[int(index)] for index in indices])

    def finish(self, data: Any) -> Any:
        """Nothing is left to do."""
        return data


class TensorReader:
    """Takes batches out of tensors with one copy.

    Args:
        samples: The tensors.
        pin: Whether batches lie in pinned memory.
    """

    waits = False
    on_device = False

    def __init__(self, samples: TensorSamples, pin: bool = False) -> None:
        self._samples = samples
        self._pin = pin

    def read(self, indices: np.ndarray) -> Any:
        """Rows of both tensors."""
        return tuple(take_rows(part, indices, self._pin) for part in (self._samples.inputs, self._samples.targets))

    def finish(self, data: Any) -> Any:
        """Nothing is left to do."""
        return data


class StoreReader:
    """Takes batches out of a store.

    Args:
        samples: Whose items are stored.
        store: Them.
        indices: Which of the samples each row is; ascending.
        normalise: What is left to do with a batch of stored inputs; None: nothing, and the samples collate them.
        pin: Whether batches lie in pinned memory.
    """

    waits = False
    on_device = False

    def __init__(
        self,
        samples: Samples,
        store: Store,
        indices: np.ndarray,
        normalise: Callable[[Tensor], Tensor] | None,
        pin: bool = False,
    ) -> None:
        self._samples = samples
        self._store = store
        self._indices = indices
        self._normalise = normalise
        self._pin = pin

    def read(self, indices: np.ndarray) -> Any:
        """Rows of the store."""
        rows = np.searchsorted(self._indices, indices)
        if self._normalise is not None:
            return self._store.batch(rows, self._pin)
        batch = self._samples.collate([self._store.item(int(row)) for row in rows])
        return _pinned(batch) if self._pin else batch

    def finish(self, data: Any) -> Any:
        """Normalise the inputs."""
        if self._normalise is None:
            return data
        inputs, targets = data
        return self._normalise(inputs), targets


@dataclass(frozen=True)
class Feed:
    """What brings the samples of a task to the model.

    Args:
        reader: Reads them.
        size: Of the batches.
        num_workers: Processes that read, where reading takes long.
        pin_memory: Whether batches come in pinned memory, from where a GPU fetches them while it computes.
    """

    reader: Reader
    size: BatchSize
    num_workers: int
    pin_memory: bool

    def batches(self, indices: np.ndarray) -> DataLoader[Batch]:
        """A loader in the order of `indices`, shape `(n,)`; each batch is as large as `size` says at its turn."""
        slow = self.reader.waits
        return DataLoader(
            _Batches(self.reader),
            sampler=_Turns(indices, self.size),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.num_workers if slow else 0,
            pin_memory=self.pin_memory and slow,  # the others put them there themselves
        )


class _Batches(Dataset[Batch]):
    """A data set whose items are whole batches, asked for by their indices."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getitem__(self, indices: np.ndarray) -> Batch:
        return Batch(indices, self._reader.read(indices))


class _Turns:
    """The indices of one batch after the other. How many there will be is not known: the size may change."""

    def __init__(self, indices: np.ndarray, size: BatchSize) -> None:
        self._indices = indices
        self._size = size

    def __iter__(self) -> Iterator[np.ndarray]:
        start = 0
        while start < len(self._indices):
            chosen = self._indices[start : start + self._size.size]
            yield chosen
            start += len(chosen)


def _as_it_is(batch: Any) -> Any:
    return batch


def _pinned(data: Any) -> Any:
    return tree_map(lambda part: part.pin_memory() if hasattr(part, "pin_memory") else part, data)
