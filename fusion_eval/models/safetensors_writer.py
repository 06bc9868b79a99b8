"""A safetensors file that is written tensor by tensor, in any order."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from io import FileIO

import torch
from torch import Tensor

from fusion_eval.errors import CheckpointError

__all__ = ["Layout", "SafetensorsWriter", "byte_count"]

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor names to shapes and dtypes."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


_SYNCED_AT_ONCE = 2**23  # bytes; so the disk writes while the merge goes on, and little is left to wait for at the end


class SafetensorsWriter:
    """Writes tensors into an open file as they come; holds none of them.

    The format: the length of the header as 8 bytes, little-endian; the header, JSON that gives every tensor's dtype,
    shape and offsets, padded with spaces to a multiple of 8 bytes; the elements, row-major and little-endian, without
    gaps. Wide dtypes come first, so that every tensor is aligned where a reader maps the file.

    Args:
        file: Empty and unbuffered. The header is written at once.
        layout: Every tensor that will be written.
        place: Where the file is, for messages.
        threads: One of them brings what is written to the disk, meanwhile; to be shut down before the file is closed.

    Raises:
        CheckpointError: The format has no such dtype.
        OSError: The file cannot be written.
    """

    def __init__(self, file: FileIO, layout: Layout, place: str, threads: Executor) -> None:
        self._file = file
        self._threads = threads
        self._syncing: Future[None] | None = None
        self._layout = layout
        self._place = place
        self._offsets: dict[str, int] = {}
        self._unsynced = 0
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(layout, key=lambda name: -layout[name][1].itemsize):
            shape, dtype = layout[name]
            if dtype not in _DTYPES:
                raise CheckpointError(f"{place}: tensor {name!r} is {dtype}, which a safetensors file cannot hold")
            start, end = end, end + byte_count(shape, dtype)
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data_start = 8 + len(text)
        self._write_at(0, memoryview(len(text).to_bytes(8, "little") + text))

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, once.

        Raises:
            CheckpointError: It is not in the layout, differs from it, or is written already.
            OSError: The file cannot be written.
        """
        if name not in self._offsets:
            problem = "written already" if name in self._layout else "not expected"
            raise CheckpointError(f"{self._place}: tensor {name!r} is {problem}")
        shape, dtype = self._layout[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            is_now = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointError(f"{self._place}: tensor {name!r} is {is_now}, where {dtype} {shape} is expected")
        elements = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        self._write_at(self._data_start + self._offsets.pop(name), elements.data)
        self._unsynced += len(elements)
        if self._unsynced >= _SYNCED_AT_ONCE and (self._syncing is None or self._syncing.done()):
            self._wait()
            self._syncing = self._threads.submit(os.fsync, self._file.fileno())
            self._unsynced = 0

    def finish(self) -> None:
        """Bring everything to the disk.

        Raises:
            CheckpointError: A tensor was not written.
            OSError: The file cannot be written.
        """
        if missing := list(self._offsets):
            raise CheckpointError(f"{self._place}: {len(missing)} tensors were not given: {', '.join(missing[:5])}")
        self._wait()
        os.fsync(self._file.fileno())

    def _wait(self) -> None:
        """Until what is on its way is on the disk; the error of a failed write is raised here only."""
        if self._syncing is not None:
            self._syncing.result()

    def _write_at(self, position: int, data: memoryview) -> None:
        self._file.seek(position)
        while data:
            data = data[self._file.write(data) :]


def byte_count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """How many bytes a tensor takes.

    Example:
        >>> byte_count((2, 3), torch.float16)
        12
    """
    return math.prod(shape) * dtype.itemsize
