"""Digests of content: equal for equal content on every machine, whatever file it came from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fusion_eval.errors import DataError

__all__ = ["Stamp", "digest_content", "file_identity", "stamp"]

_DIGITS = 32
"""Of a digest in hexadecimal: 128 bits."""


def digest_content(values: Iterable[object]) -> str:
    """Digest of nested sequences and mappings of tensors, arrays, PIL images, bytes and plain values.

    Raises:
        DataError: a value is of another type.

    Example:
        >>> digest_content(["ab"]) == digest_content(["ab"]), digest_content(["ab"]) == digest_content(["a", "b"])
        (True, False)
    """
    digest = hashlib.sha256(usedforsecurity=False)  # processors have instructions for it: twice as fast as others
    for value in values:
        for part in _parts(value):
            digest.update(part)
    return digest.hexdigest()[:_DIGITS]


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


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """Bytes of a value, each variable length announced before it, so that no two values give the same ones."""
    if isinstance(value, Mapping):
        yield f"mapping {len(value)} ".encode()
        yield from (part for item in value.items() for part in _parts(item))
    elif isinstance(value, (list, tuple)):
        yield f"sequence {len(value)} ".encode()
        yield from (part for item in value for part in _parts(item))
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} ".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcSU":
        yield f"{value.dtype.str} {value.shape} ".encode()
        yield value.tobytes()
    elif isinstance(value, bytes):
        yield f"bytes {len(value)} ".encode()
        yield value
    elif value is None or type(value) in (bool, int, float, str):
        yield f"{type(value).__name__} {value!r} ".encode()
    elif hasattr(value, "getpalette"):  # a PIL image, known without importing PIL
        yield from _parts(["image", value.mode, value.size, value.getpalette(), value.tobytes()])
    else:
        raise DataError(f"no fingerprint for {type(value).__module__}.{type(value).__qualname__}: {value!r:.100}")
