"""Which way the batches of a task take to the model, decided before it runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from fusion_eval.data import DataCache, DataSource, Samples, TensorSamples
from fusion_eval.data.digest import digest_content
from fusion_eval.data.prepared.store import Store, take_rows
from fusion_eval.data.transform import TransformedSamples
from fusion_eval.engine.code import UndescribableError
from fusion_eval.engine.description import Description
from fusion_eval.engine.key import code_of_source
from fusion_eval.engine.reading import ItemReader, Reader, StoreReader, TensorReader

__all__ = ["Access"]

_SHARE = 0.5
"""Of the free memory of a GPU: what data may take, as the model needs the rest."""

_on_device: OrderedDict[tuple[str, ...], Any] = OrderedDict()
"""Data that lies on a device, for the tasks and jobs to come; what was used least recently goes first."""


@dataclass(frozen=True)
class Access:
    """How samples are read.

    Args:
        cache: Of prepared samples.
        resident: Whether they stay on the device: `auto` if that is a GPU with room for them, `on`, `off`.
        device: Where the model runs.
        advance: Told how many samples more are prepared.
    """

    cache: DataCache
    resident: Literal["auto", "on", "off"]
    device: torch.device
    advance: Callable[[int], None]

    def open(
        self,
        data: DataSource,
        samples: Samples,
        fingerprint: str,
        indices: np.ndarray,
        check: Callable[[Any], None],
    ) -> Reader:
        """The fastest reader there is.

        Args:
            data: Where the samples come from.
            samples: What it loaded.
            fingerprint: Of them.
            indices: Shape `(n,)`, ascending: those that will be read.
            check: Refuses a batch; it is called here if what is read later never was on the CPU.

        Raises:
            Exception: a sample cannot be made, or `check` refuses it.
        """
        pin = self.device.type == "cuda"
        if isinstance(samples, TensorSamples):
            return self._resident(
                TensorReader(samples, pin),
                (samples.inputs, samples.targets),
                np.arange(len(samples)),
                fingerprint,
                check,
            )
        split = samples.split() if isinstance(samples, TransformedSamples) else None
        stored, normalise = split or (samples, None)
        store = self._store(data, stored, fingerprint, indices)
        if store is None:
            return ItemReader(samples)
        reader = StoreReader(samples, store, indices, normalise, pin)
        if normalise is None or not store.stacks:
            return reader
        return self._resident(reader, store.whole(), indices, fingerprint, check)

    def _store(self, data: DataSource, stored: Samples, fingerprint: str, indices: np.ndarray) -> Store | None:
        code = Description()
        try:
            names = [code.name(part) for part in (type(stored), *code_of_source(data))]
            identity = {"data": fingerprint, "made by": names, "code": code.code}
        except UndescribableError:  # who could tell later whether it is what made the stored items
            return None
        return self.cache.open(stored, indices, identity, self.advance)

    def _resident(
        self, reader: Reader, whole: Any, rows: np.ndarray, fingerprint: str, check: Callable[[Any], None]
    ) -> Reader:
        key = (fingerprint, type(reader).__name__, digest_content([rows]), str(self.device))
        if self.resident == "off" or (self.resident == "auto" and not self._has_room(key, whole)):
            return reader
        check(whole)
        if key not in _on_device:
            _on_device[key] = apply_to_collection(whole, Tensor, lambda part: part.to(self.device, copy=True))
        _on_device.move_to_end(key)
        return _DeviceReader(reader, _on_device[key], rows)

    def _has_room(self, key: tuple[str, ...], whole: Any) -> bool:
        if self.device.type != "cuda":
            return False
        sizes: list[int] = []
        apply_to_collection(whole, Tensor, lambda part: sizes.append(part.nbytes))
        while key not in _on_device and sum(sizes) > _SHARE * _free(self.device):
            if not _on_device:
                return False
            _on_device.popitem(last=False)
        return True


class _DeviceReader:
    """Takes batches out of tensors that lie on the device already."""

    waits = False
    on_device = True

    def __init__(self, reader: Reader, whole: Any, rows: np.ndarray) -> None:
        self._whole = whole
        self._rows = rows
        self.finish = reader.finish

    def read(self, indices: np.ndarray) -> Any:
        """Rows of all tensors: copies, as a model may write into its inputs."""
        rows = np.searchsorted(self._rows, indices)
        return apply_to_collection(self._whole, Tensor, lambda part: take_rows(part, rows))


def _free(device: torch.device) -> int:
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
