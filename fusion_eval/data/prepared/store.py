"""Stored items: a directory with one file of bytes for each leaf, memory-mapped, or the same in memory."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fusion_eval.data.prepared.leaves import Leaf, assemble
from fusion_eval.stamps import file_identity

__all__ = ["DamagedError", "Described", "Store", "digest_bytes", "open_store", "seal", "take_rows"]

_DESCRIPTION, _SEAL = "description.json", "seal.txt"


class DamagedError(Exception):
    """A stored directory is not what was written."""


@dataclass(frozen=True)
class Described:
    """What a store says about itself.

    Attributes:
        count: Items.
        leaves: Parts of every item.
        shapes: For each leaf the shape that it has in all items, or None where it differs.
        chunks: For each file of bytes the length and digest of the pieces it was written in.
    """

    count: int
    leaves: list[Leaf]
    shapes: list[list[int] | None]
    chunks: dict[str, list[tuple[int, str]]]

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Described:
        """The inverse of `to_json`.

        Raises:
            DamagedError: it is something else.
        """
        try:
            plain = json.loads(text)
            leaves = [Leaf(tuple(leaf["path"]), leaf["kind"], leaf["dtype"]) for leaf in plain["leaves"]]
            chunks = {
                name: [(int(size), str(digest)) for size, digest in pieces] for name, pieces in plain["chunks"].items()
            }
            return cls(int(plain["count"]), leaves, list(plain["shapes"]), chunks)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"its description cannot be read: {error}") from error


class Store:
    """Items by row.

    Args:
        described: What is stored.
        values: For each leaf the bytes of all rows, shape `(bytes,)`, uint8. They are never written to.
        shapes: For each leaf that differs in shape between items, their shapes `(count, dimensions)`, else None.
        in_use: Kept open as long as the store is, so that nobody removes it from disk.

    Attributes:
        nbytes: Size of all values.
    """

    def __init__(
        self, described: Described, values: Sequence[Tensor], shapes: Sequence[Tensor | None], in_use: IO[Any] | None
    ) -> None:
        self._described = described
        self._in_use = in_use
        self._shapes = list(shapes)
        self._ends = [None if rows is None else rows.prod(dim=1).cumsum(dim=0) for rows in shapes]
        self._values = [
            _typed(tensor, leaf, None if shape is None else (described.count, *shape))
            for tensor, leaf, shape in zip(values, described.leaves, described.shapes, strict=True)
        ]
        self.nbytes = sum(tensor.nbytes for tensor in self._values)

    @classmethod
    def of_bytes(cls, described: Described, held: Callable[[str], Tensor], in_use: IO[Any] | None = None) -> Store:
        """A store of the bytes under the names of its files."""
        values = [held(f"{place}.values") for place in range(len(described.leaves))]
        shapes = [
            None if shape is not None else held(f"{place}.shapes").view(torch.int64).view(described.count, -1)
            for place, shape in enumerate(described.shapes)
        ]
        return cls(described, values, shapes, in_use)

    def __len__(self) -> int:
        return self._described.count

    @property
    def stacks(self) -> bool:
        """Whether any rows make a batch by taking them from each leaf: all have one shape, and none is text."""
        return None not in self._described.shapes and all(leaf.kind != "text" for leaf in self._described.leaves)

    def item(self, row: int) -> tuple[Any, Any]:
        """The item as it was stored."""
        return assemble(
            self._described.leaves, lambda place: self._described.leaves[place].restore(self._row(place, row))
        )

    def batch(self, rows: np.ndarray, pin: bool = False) -> tuple[Any, Any]:
        """What `default_collate` makes of the items of `rows`, with one copy of each leaf.

        Args:
            rows: Shape `(n,)`.
            pin: Whether tensors lie in pinned memory, from where a GPU fetches them while it computes.
        """
        if not self.stacks:
            inputs, targets = default_collate([self.item(int(row)) for row in rows])
            return inputs, targets
        return assemble(self._described.leaves, lambda place: take_rows(self._values[place], rows, pin))

    def whole(self) -> tuple[Any, Any]:
        """All items as one batch, for reading only, without a copy; only of what `stacks`."""
        return assemble(self._described.leaves, lambda place: self._values[place])

    def _row(self, place: int, row: int) -> Tensor:
        values, shapes, ends = self._values[place], self._shapes[place], self._ends[place]
        if shapes is None or ends is None:
            return values[row].clone()
        start = 0 if row == 0 else int(ends[row - 1])
        return values[start : int(ends[row])].clone().reshape(tuple(shapes[row].tolist()))


def open_store(directory: Path, in_use: IO[Any] | None) -> Store:
    """Open what `seal` left, after a look at whether it is still the same.

    The files are known by size, times and inode. Where these are not as they were (someone wrote to a file, the
    directory was copied), all bytes are compared with their digests.

    Raises:
        DamagedError: a file is missing, cut off or changed.
        OSError: it cannot be read.
    """
    described = Described.from_json(_read(directory / _DESCRIPTION))
    files = [directory / name for name in described.chunks]
    for file in files:
        if not file.is_file() or file.stat().st_size != sum(size for size, _ in described.chunks[file.name]):
            raise DamagedError(f"{file.name} is missing or cut off")
    sealed = directory / _SEAL
    if not sealed.is_file() or sealed.read_text() != _seal(files):
        with ThreadPoolExecutor() as pool:
            same = list(pool.map(partial(_is_whole, described), files))
        if not all(same):
            changed = ", ".join(file.name for file, is_same in zip(files, same, strict=True) if not is_same)
            raise DamagedError(f"{changed} changed since it was written")
        sealed.write_text(_seal(files))
    return Store.of_bytes(described, lambda name: _mapped(directory / name), in_use)


def seal(directory: Path, described: Described) -> None:
    """Say what the files in a directory are, now that they are complete."""
    (directory / _DESCRIPTION).write_text(described.to_json())
    (directory / _SEAL).write_text(_seal([directory / name for name in described.chunks]))


def digest_bytes(data: Any) -> str:
    """Of one piece of a file."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _seal(files: Iterable[Path]) -> str:
    return "".join(f"{file.name} {file_identity(file)}\n" for file in files)


def _is_whole(described: Described, file: Path) -> bool:
    with file.open("rb") as opened:
        return all(digest_bytes(opened.read(size)) == digest for size, digest in described.chunks[file.name])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError) as error:
        raise DamagedError(f"{file.name} is missing or no text") from error


def _mapped(file: Path) -> Tensor:
    if file.stat().st_size == 0:  # nothing can be mapped
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nobody may write into it is what is wanted
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r"))


def _typed(values: Tensor, leaf: Leaf, shape: tuple[int, ...] | None) -> Tensor:
    typed = values.view(leaf.torch_dtype)
    return typed if shape is None else typed.view(shape)


def take_rows(values: Tensor, rows: np.ndarray, pin: bool = False) -> Tensor:
    """Copy rows: in one piece where they lie one after the other.

    Args:
        values: Shape `(n, ...)`.
        rows: Shape `(m,)`, each in `[0, n)`.
        pin: Whether to copy into pinned memory.
    """
    taken = torch.empty((len(rows), *values.shape[1:]), dtype=values.dtype, device=values.device, pin_memory=pin)
    first = int(rows[0]) if len(rows) else 0
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return taken.copy_(values[first : first + len(rows)])
    chosen = torch.from_numpy(rows)
    if values.is_cuda:  # from memory that is not pinned it would be fetched once all batches so far are through
        chosen = chosen.pin_memory()
    return torch.index_select(values, 0, chosen.to(values.device, non_blocking=values.is_cuda), out=taken)
