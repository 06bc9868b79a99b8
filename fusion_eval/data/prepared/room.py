"""Room for stores: those that were used least recently go when a new one needs it."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from fusion_eval.data.prepared.store import Store
from fusion_eval.data.prepared.use import in_use, used_at

__all__ = ["Directory", "Memory", "Room", "TooLargeError"]

_RESERVED = "reserved"


class TooLargeError(Exception):
    """A store takes more room than there is."""


class Room(Protocol):
    """Where a store is going to be."""

    def reserve(self, size: float) -> None:
        """Make room for so many bytes.

        Raises:
            TooLargeError: there cannot be that much.
        """
        ...


@dataclass(frozen=True)
class Directory:
    """A directory of stores, each a directory named by its key, or its key and a suffix while it is being made.

    Args:
        path: The directory; it exists.
        limit: Bytes that all stores together may take.
    """

    path: Path
    limit: float

    def lock(self, key: str) -> FileLock:
        """Keeps others from making or removing the store of a key."""
        return FileLock(self.path / f"{key}.lock")

    def room_for(self, made: Path) -> Room:
        """Room for a store that is being made in one of the directories."""
        return _Part(self, made)

    def make_room(self, size: float, made: Path) -> None:
        """Remove stores until `size` more bytes fit, beside what others are making; `made` is not counted.

        Raises:
            TooLargeError: they would not fit without what is in use; then nothing is removed.
        """
        with FileLock(self.path / "room.lock"):
            others = [path for path in self.path.iterdir() if path.is_dir() and path != made]
            sizes = {path: _size(path) for path in others}
            free = [path for path in others if not in_use(path)]
            kept = sum(sizes[path] for path in others if path not in free)
            disk = shutil.disk_usage(self.path).free + sum(sizes[path] for path in free)
            if kept + size > self.limit or size > disk:
                raise TooLargeError
            total = sum(sizes.values())
            for path in sorted(free, key=used_at):
                if total + size <= self.limit and size <= shutil.disk_usage(self.path).free:
                    break
                if self.remove(path):
                    total -= sizes[path]
            (made / _RESERVED).write_text(str(int(size)))

    def remove(self, path: Path) -> bool:
        """Remove a store, unless someone makes or opens it just now."""
        lock = self.lock(path.name.partition(".")[0])
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(path)
                return True
        except (Timeout, OSError):
            return False


@dataclass(frozen=True)
class _Part:
    directory: Directory
    made: Path

    def reserve(self, size: float) -> None:
        self.directory.make_room(size, self.made)


@dataclass
class Memory:
    """Stores of this process.

    Attributes:
        limit: Bytes that all together may take.
    """

    limit: float = 0
    _stores: OrderedDict[str, Store] = field(default_factory=OrderedDict)

    def reserve(self, size: float) -> None:
        """See `Room`."""
        if size > self.limit:
            raise TooLargeError
        while sum(store.nbytes for store in self._stores.values()) + size > self.limit:
            self._stores.popitem(last=False)

    def get_or_make(self, key: str, make: Callable[[Room], Store]) -> Store:
        """The store of a key, made unless it is there."""
        if key not in self._stores:
            self._stores[key] = make(self)
        self._stores.move_to_end(key)
        return self._stores[key]


def _size(directory: Path) -> int:
    """Bytes in a directory, or, while it is being made, those that it has reserved if they are more."""
    found = reserved = 0
    with suppress(OSError, ValueError):  # it may go, or change, while it is looked at
        for file in directory.iterdir():
            if file.name == _RESERVED and "." in directory.name:
                reserved = int(file.read_text())
            found += file.stat().st_size
    return max(found, reserved)
