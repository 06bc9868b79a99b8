"""Which directories are in use, by whichever process: the system lets go of what a dead one held."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, which does not remove what is open
    fcntl = None  # type: ignore[assignment]

__all__ = ["in_use", "use", "used_at"]

_MARK = "used"


def use(directory: Path) -> IO[Any]:
    """Hold a directory as long as the returned file is open; its time of last use is now."""
    held = (directory / _MARK).open("ab")
    if fcntl is not None:
        fcntl.flock(held, fcntl.LOCK_SH)
    with suppress(OSError):
        os.utime(directory / _MARK)
    return held


def in_use(directory: Path) -> bool:
    """Whether someone holds the directory now."""
    if fcntl is None or not (directory / _MARK).exists():
        return False
    with (directory / _MARK).open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def used_at(directory: Path) -> float:
    """When the directory was last used, in seconds since 1970."""
    mark = directory / _MARK
    return (mark if mark.exists() else directory).stat().st_mtime
