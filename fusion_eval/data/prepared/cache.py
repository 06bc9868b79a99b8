"""Where prepared samples are kept, what is kept, and what makes room for what is new."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fusion_eval.data.digest import digest_content
from fusion_eval.data.prepared.build import CannotWriteError, build_in_memory, build_on_disk
from fusion_eval.data.prepared.leaves import UnstorableError
from fusion_eval.data.prepared.room import Directory, Memory, Room, TooLargeError
from fusion_eval.data.prepared.store import DamagedError, Store, open_store
from fusion_eval.data.prepared.use import use
from fusion_eval.data.prepared.versions import installed_versions
from fusion_eval.data.source import Samples
from fusion_eval.errors import ConfigError

__all__ = ["DataCache"]

_FORMAT = 1
"""Of the directories; another number leaves those of earlier ones to be evicted."""

_DECODERS = ("pillow", "numpy", "torch", "torchvision", "transformers", "tokenizers", "datasets", "soundfile", "scipy")
"""Packages whose version may change what an item is made into."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataCache:
    """Samples that are decoded and preprocessed once, and then read as they are.

    The first run on a data set fills a store; every later one, of any model in any process, reads it. A store belongs
    to the content of the data, the transform, and the versions of the code that made it.

    Args:
        mode: `disk`: in a directory that processes share, memory-mapped, so that it may be larger than the memory;
            `memory`: in this process; `off`: every sample is made anew each time.
        path: The directory of all that is derived from data.
        max_gb: What all stores together take at most, in 10^9 bytes. Those that were used least recently make room for
            a new one, unless they are in use; what is too large all the same is not kept.

    Raises:
        ConfigError: an argument is out of range.
    """

    mode: Literal["disk", "memory", "off"] = "disk"
    path: str = "~/.cache/fusion_eval"
    max_gb: float = 50

    def __post_init__(self) -> None:
        if self.mode not in ("disk", "memory", "off"):
            raise ConfigError(f"data.cache.mode: expected disk, memory or off; found {self.mode!r}")
        if isinstance(self.max_gb, bool) or not isinstance(self.max_gb, (int, float)) or not self.max_gb > 0:
            raise ConfigError(f"data.cache.max_gb: expected a positive number of gigabytes, found {self.max_gb!r}")

    @property
    def directory(self) -> Path:
        """`path`, where `~` is the home of the user.

        Raises:
            ConfigError: they have none.
        """
        try:
            return Path(self.path).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"data.cache.path: {self.path}: {error} Give another, or data.cache.mode=off") from error

    def open(
        self, samples: Samples, indices: np.ndarray, identity: object, advance: Callable[[int], None]
    ) -> Store | None:
        """The prepared items of `indices`, made now unless they are there.

        No trouble with the directory costs a run: a warning says what is wrong, and the samples are used as they are.

        Args:
            samples: Makes the items.
            indices: Shape `(n,)`, ascending.
            identity: All that an item depends on, in values that JSON can hold.
            advance: Told how many more items are done.

        Returns:
            A store whose row `i` is the item `indices[i]`; None where they are not to be, or cannot be, stored.

        Raises:
            Exception: whatever making an item raises.
        """
        chosen = None if len(indices) == len(samples) else digest_content([indices])
        return self._open(_key(identity, chosen), lambda: (samples, indices), advance)

    def open_all(self, load: Callable[[], Samples], identity: object) -> Store | None:
        """All items of samples that take long to load: they are loaded only where the items are not there.

        Args:
            load: Loads the samples.
            identity: As for `open`.

        Returns:
            As `open`.

        Raises:
            Exception: whatever loading raises.
        """

        def items() -> tuple[Samples, np.ndarray]:
            samples = load()
            return samples, np.arange(len(samples))

        return self._open(_key(identity, None), items, lambda done: None)

    def _open(
        self, key: str, items: Callable[[], tuple[Samples, np.ndarray]], advance: Callable[[int], None]
    ) -> Store | None:
        if self.mode == "off" or (self, key) in _refused:
            return None
        try:
            if self.mode == "memory":
                _memory.limit = self.max_gb * 1e9
                return _memory.get_or_make(key, lambda room: build_in_memory(*items(), room, advance))
            return self._open_on_disk(key, lambda made, room: build_on_disk(*items(), made, room, advance))
        except UnstorableError as error:
            _log.info("samples are made anew each time: %s", error)
        except TooLargeError:
            _log.warning("samples are made anew each time: they take more than data.cache.max_gb=%s", self.max_gb)
        except CannotWriteError as error:
            _log.warning("samples are made anew each time: data.cache.path=%s: %s", self.path, error)
        _refused.add((self, key))
        return None

    def _open_on_disk(self, key: str, build: Callable[[Path, Room], None]) -> Store:
        with _disk_errors():
            directory = Directory(self.directory / "prepared", self.max_gb * 1e9)
            directory.path.mkdir(parents=True, exist_ok=True)
            lock = directory.lock(key)
            lock.acquire()
        try:
            with _disk_errors():
                found = _find(directory.path / key)
                if found is not None:
                    return found
                for leftover in directory.path.glob(f"{key}*/"):  # damaged, or of a process that died
                    shutil.rmtree(leftover)
                made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=directory.path))
            try:
                build(made, directory.room_for(made))
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
            with _disk_errors():
                made.rename(directory.path / key)
                return open_store(directory.path / key, use(directory.path / key))
        finally:
            lock.release()


_memory = Memory()
"""Stores of this process, for mode `memory`."""

_refused: set[tuple[DataCache, str]] = set()
"""What could not be stored: no further task or job of this process tries."""


def _find(directory: Path) -> Store | None:
    if not directory.exists():
        return None
    try:
        return open_store(directory, use(directory))
    except DamagedError as error:
        _log.warning("%s: %s; it is prepared again", directory, error)
        return None


def _key(identity: object, chosen: str | None) -> str:
    described = json.dumps([_FORMAT, identity, installed_versions(*_DECODERS), chosen], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError, RuntimeError) as error:  # no lock on this file system; a user without a home
        raise CannotWriteError(str(error)) from error
