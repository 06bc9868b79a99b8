"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from fusion_eval.errors import FusionEvalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an exception.

    The bytes go to a hidden file in the same directory, reach the disk, and then that file is renamed: a reader sees
    the old content or the new, whenever the process is killed.

    Args:
        path: Where to write. Its directory is made.

    Raises:
        FusionEvalError: The file cannot be written (full disk, no permission, name too long); an old one is unchanged.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FusionEvalError(f"cannot write {path}: {error.strerror or error}") from error
