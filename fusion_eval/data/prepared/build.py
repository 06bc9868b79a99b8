"""Making a store: items are made once, by several processes, and written as they come."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusion_eval.cpus import usable_cpus
from fusion_eval.data.prepared.leaves import Leaf, UnstorableError, leaves_of
from fusion_eval.data.prepared.room import Room
from fusion_eval.data.prepared.store import Described, Store, digest_bytes, seal
from fusion_eval.data.source import Samples
from fusion_eval.errors import FusionEvalError

__all__ = ["CannotWriteError", "build_in_memory", "build_on_disk"]

_CHUNK, _CHUNK_BYTES = 64, 2**23
"""Items that a process makes at a time, and the bytes above which they are fewer: many processes hold several each."""

_WORTH_IT = 1.0
"""Seconds of work below which no process is started for it."""


class CannotWriteError(Exception):
    """The disk, not the data, is at fault."""


def build_on_disk(
    samples: Samples, indices: np.ndarray, directory: Path, room: Room, advance: Callable[[int], None]
) -> None:
    """Fill an existing, empty directory with the items of `indices`, for `open_store`.

    Args:
        samples: Makes the items.
        indices: Shape `(n,)`: which, in the order of the rows.
        directory: Where to.
        room: Told how many bytes they are going to take, as early as the first items tell.
        advance: Told how many more are done.

    Raises:
        UnstorableError: items are no tensors and plain values, or differ in kind.
        TooLargeError: there is no room.
        CannotWriteError: the directory cannot be written to.
        Exception: whatever making an item raises.
    """
    files: dict[str, Any] = {}
    try:
        described = _write(samples, indices, files, lambda name: (directory / name).open("wb"), room, advance)
        for file in files.values():
            os.fsync(file)
    finally:
        for file in files.values():
            file.close()
    seal(directory, described)


def build_in_memory(samples: Samples, indices: np.ndarray, room: Room, advance: Callable[[int], None]) -> Store:
    """As `build_on_disk`, in memory."""
    files: dict[str, Any] = {}
    described = _write(samples, indices, files, lambda name: io.BytesIO(), room, advance)

    def held(name: str) -> Tensor:
        data = files[name].getbuffer()
        return torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)

    return Store.of_bytes(described, held)


@dataclass(frozen=True)
class _Chunk:
    """Some items: for each leaf its bytes, one digest of them, and its shape in each item, `(items, dimensions)`.

    Arrays, as they come from another process through a pipe: tensors would come through shared memory, of which a
    container may have next to nothing.
    """

    leaves: list[Leaf]
    values: list[np.ndarray]
    digests: list[str]
    shapes: list[np.ndarray]


def _write(
    samples: Samples,
    indices: np.ndarray,
    files: dict[str, Any],
    new_file: Callable[[str], Any],
    room: Room,
    advance: Callable[[int], None],
) -> Described:
    pieces: dict[str, list[tuple[int, str]]] = {}
    leaves: list[Leaf] = []
    shapes: list[list[np.ndarray]] = []
    written = done = reserved = 0

    def append(name: str, data: Any, size: int, digest: str) -> None:
        try:
            if name not in files:
                files[name], pieces[name] = new_file(name), []
            files[name].write(data)
            files[name].flush()
        except OSError as error:
            raise CannotWriteError(str(error)) from error
        pieces[name].append((size, digest))

    for chunk in _chunks(samples, indices):
        if not leaves:
            leaves, shapes = chunk.leaves, [[] for _ in chunk.leaves]
        elif chunk.leaves != leaves or any(
            a[0].shape[1] != b.shape[1] for a, b in zip(shapes, chunk.shapes, strict=True)
        ):
            raise UnstorableError("the items differ in kind")
        items = len(chunk.shapes[0])
        written, done = written + sum(values.nbytes for values in chunk.values), done + items
        expected = math.ceil(written / done * len(indices))
        if expected > reserved:
            room.reserve(expected)
            reserved = expected
        for place, values in enumerate(chunk.values):
            append(f"{place}.values", values, values.nbytes, chunk.digests[place])
            shapes[place].append(chunk.shapes[place])
        advance(items)
    common: list[list[int] | None] = []
    for place, parts in enumerate(shapes):
        rows = np.concatenate(parts)
        alike = leaves[place].kind != "text" and bool((rows == rows[0]).all())
        common.append(rows[0].tolist() if alike else None)
        if not alike:
            append(f"{place}.shapes", rows.tobytes(), rows.nbytes, digest_bytes(rows.tobytes()))
    return Described(len(indices), leaves, common, pieces)


def _chunks(samples: Samples, indices: np.ndarray) -> Iterator[_Chunk]:
    """The items in pieces and in order: the first tells how large, the next whether processes are worth their start."""
    first = _given(_Maker(samples, [indices[:1]])[0])
    yield first
    length = min(_CHUNK, max(1, _CHUNK_BYTES // max(1, sum(values.nbytes for values in first.values))))
    maker = _Maker(samples, [indices[start : start + length] for start in range(1, len(indices), length)])
    if len(maker) == 0:
        return
    started = time.perf_counter()
    yield _given(maker[0])
    remaining = (time.perf_counter() - started) * (len(maker) - 1)
    processes = min(usable_cpus(), math.ceil(remaining / _WORTH_IT), len(maker) - 1)
    if processes < 2 or multiprocessing.current_process().daemon:  # which may have no children
        processes = 0
    rest, unused = range(1, len(maker)), torch.Generator()  # instead of the global one, which stays as it is
    yield from map(_given, DataLoader(maker, batch_size=None, sampler=rest, num_workers=processes, generator=unused))


def _given(made: _Chunk | Exception) -> _Chunk:
    if isinstance(made, Exception):
        raise made
    return made


class _Maker(Dataset[Any]):
    """Pieces of the items; a failure that crosses to another process is a value, for its message to stay as it is."""

    def __init__(self, samples: Samples, parts: list[np.ndarray]) -> None:
        self._samples = samples
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, part: int) -> _Chunk | Exception:
        try:
            return _chunk([leaves_of(self._samples[int(index)]) for index in self._parts[part]])
        except (FusionEvalError, UnstorableError) as error:
            return error


def _chunk(items: list[list[tuple[Leaf, Tensor]]]) -> _Chunk:
    leaves = [leaf for leaf, _ in items[0]]
    for item in items:
        if [(leaf, tensor.dim()) for leaf, tensor in item] != [(leaf, tensor.dim()) for leaf, tensor in items[0]]:
            raise UnstorableError("the items differ in kind")
    columns = [[item[place][1] for item in items] for place in range(len(leaves))]
    values = [torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in column]).numpy() for column in columns]
    shapes = [
        np.array([tensor.shape for tensor in column], dtype=np.int64).reshape(len(items), -1) for column in columns
    ]
    return _Chunk(leaves, values, list(map(digest_bytes, values)), shapes)
