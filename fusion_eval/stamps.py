"""What the file system knows of files: enough to tell, without reading them, that they are what they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["SETTLED", "Stamp", "file_identities", "file_identity", "stamp"]

SETTLED = 2.0
"""Seconds after which a file that was changed twice has two times: some file systems count in steps as long as that."""


class Stamp(NamedTuple):
    """What the file system knows of some files.

    Attributes:
        text: Digest of their paths, sizes, times and inodes, for comparison on the same machine.
        changed_at: When the last of them was changed, in seconds since 1970.
    """

    text: str
    changed_at: float


def stamp(paths: Iterable[Path]) -> Stamp:
    """What is known of files without reading them; of a directory, all that is below it counts.

    Whoever writes to a file, replaces it, or adds one to a directory changes the stamp.

    Raises:
        OSError: a path does not exist.
    """
    digest, changed_at = hashlib.blake2b(digest_size=16), 0.0
    for path in sorted(path.absolute() for path in paths):
        for file, found in ((str(path), path.stat()), *_below(path, set())):
            digest.update(f"{file} {_identity(found)}\n".encode(errors="surrogateescape"))
            changed_at = max(changed_at, found.st_ctime, found.st_mtime)
    return Stamp(digest.hexdigest(), changed_at)


def file_identity(file: Path) -> str:
    """Size, times and inode of a file: others once it is written to or replaced, the same when it is renamed."""
    return _identity(file.stat())


def file_identities(directory: Path) -> tuple[tuple[str, str], ...]:
    """Name and identity of each file that lies right in a directory, by name."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return tuple((file.name, file_identity(file)) for file in files)


def _identity(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _below(directory: Path | str, above: set[int]) -> Iterator[tuple[str, os.stat_result]]:
    """All in a directory, by name; links are followed, but not in circles."""
    if not os.path.isdir(directory) or (inode := os.stat(directory).st_ino) in above:  # noqa: PTH112, PTH116
        return
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            with suppress(FileNotFoundError):  # a link to nowhere
                yield entry.path, entry.stat()
                if entry.is_dir():
                    yield from _below(entry.path, above | {inode})
