"""What `fusion-eval-report store` does with a result store: list, verify, prune."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from fusion_eval.engine.note_file import read_note
from fusion_eval.engine.record_file import DamagedRecordError, read_record, record_path
from fusion_eval.errors import DataError

__all__ = ["StoreEntry", "list_entries", "prune", "verify_entries"]

_ABANDONED = timedelta(days=1)
"""Age at which the half-written file or the lock of a killed process is taken for what it is."""


@dataclass(frozen=True)
class StoreEntry:
    """One stored result, as a row of a table.

    Attributes:
        path: The file; its stem is the key.
        label: What was evaluated, such as "merged on mnist".
        primary: The primary metric.
        score: Its value.
        count: Number of samples.
        seconds: Wall time of the evaluation, which using the entry saves.
        evaluated_at: When, UTC.
        used_at: When the result was last read, or written, UTC.
        bytes: Size of the file.
    """

    path: Path
    label: str
    primary: str
    score: float
    count: int
    seconds: float
    evaluated_at: datetime
    used_at: datetime
    bytes: int


def list_entries(directory: Path) -> list[StoreEntry]:
    """The readable entries of a store, the oldest first; none if there is no such directory."""
    entries = []
    for path in _files(directory, "zip"):
        with suppress(OSError, DamagedRecordError):  # pruned by someone else meanwhile, or for `verify_entries` to tell
            entries.append(_entry(path))
    return sorted(entries, key=lambda entry: (entry.evaluated_at, entry.path.name))


def verify_entries(directory: Path) -> dict[Path, str]:
    """Read every entry with all its samples, against its checksums and its key, and every note of what a job came to.

    Returns:
        File to what is wrong with it; empty where all is well.
    """
    problems = {}
    for path in _files(directory, "zip"):
        try:
            read_record(path)
        except FileNotFoundError:
            continue
        except (OSError, DamagedRecordError) as error:
            problems[path] = str(error)
    for path in _files(directory, "json"):
        try:
            read_note(path)
        except DataError as error:
            if path.exists():
                problems[path] = str(error)
    return problems


def prune(
    directory: Path,
    *,
    older_than: timedelta | None = None,
    unused: timedelta | None = None,
    max_bytes: int | None = None,
    damaged: bool = False,
) -> list[Path]:
    """Remove entries, and always what killed processes left behind; safe while others use the store.

    Notes of what jobs came to go with the entries that they name, and with `unused` and `damaged` like these.

    Args:
        directory: Of the store.
        older_than: Remove what was evaluated longer ago than this.
        unused: Remove what was neither read nor written for so long.
        max_bytes: Of what is left, remove the least recently used entries until the others need no more than this.
        damaged: Remove what `verify_entries` complains about.

    Returns:
        The removed entries.
    """
    now = datetime.now(timezone.utc)
    bad = list(verify_entries(directory)) if damaged else []
    removed, kept = [path for path in bad if path.suffix == ".zip"], []
    for entry in list_entries(directory):
        too_old = older_than is not None and now - entry.evaluated_at > older_than
        too_idle = unused is not None and now - entry.used_at > unused
        if too_old or too_idle:
            removed.append(entry.path)
        else:
            kept.append(entry)
    if max_bytes is not None:
        kept.sort(key=lambda entry: entry.used_at)
        total = sum(entry.bytes for entry in kept)
        while total > max_bytes:
            entry = kept.pop(0)
            removed.append(entry.path)
            total -= entry.bytes
    for path in (*removed, *bad):
        path.unlink(missing_ok=True)
    _prune_notes(directory, unused)
    _remove_leftovers(directory)
    return removed


def _prune_notes(directory: Path, unused: timedelta | None) -> None:
    """Remove those that name an entry that is gone, or were not used for so long."""
    for path in _files(directory, "json"):
        with suppress(OSError, DataError):
            too_idle = unused is not None and time.time() - path.stat().st_mtime > unused.total_seconds()
            if too_idle or not all(record_path(directory, key).exists() for key in read_note(path).keys):
                path.unlink()


def _entry(path: Path) -> StoreEntry:
    record, status = read_record(path), path.stat()
    result = record.result
    return StoreEntry(
        path=path,
        label=record.label,
        primary=result.primary,
        score=result.score,
        count=result.count,
        seconds=result.seconds,
        evaluated_at=datetime.fromisoformat(result.evaluated_at),
        used_at=datetime.fromtimestamp(status.st_mtime, timezone.utc),
        bytes=status.st_size,
    )


def _remove_leftovers(directory: Path) -> None:
    for path in [*_files(directory, "tmp"), *_files(directory, "lock")]:
        with suppress(OSError, Timeout):  # in use, or gone
            if time.time() - path.stat().st_mtime > _ABANDONED.total_seconds():
                if path.suffix == ".lock":
                    with FileLock(path, timeout=0):
                        path.unlink()
                else:
                    path.unlink()


def _files(directory: Path, suffix: str) -> Iterator[Path]:
    yield from sorted(directory.glob(f"[0-9a-f][0-9a-f]/*.{suffix}"))
