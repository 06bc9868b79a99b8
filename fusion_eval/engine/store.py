"""Results that are already known, by what they depend on, so that nothing is evaluated twice."""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from torch import distributed

from fusion_eval.engine.fingerprint import fingerprint_config
from fusion_eval.engine.ranks import all_ranks
from fusion_eval.engine.record_file import DamagedRecordError, Record, read_record, record_path, write_record
from fusion_eval.report import TaskResult

__all__ = ["DiskStore", "ResultStore", "process_store", "stored_key"]

_PATIENCE = 60.0
"""Seconds after which a rank that waits for another process lets the other ranks know, before they time out."""

_log = logging.getLogger(__name__)

_keys: weakref.WeakKeyDictionary[TaskResult, str] = weakref.WeakKeyDictionary()
"""Results to their keys on disk."""


def stored_key(result: TaskResult) -> str | None:
    """The key under which a result lies in the store that it was read from or written to; None: in no store."""
    return _keys.get(result)


class ResultStore:
    """Task results in memory, keyed by all that they depend on."""

    def __init__(self) -> None:
        self._results: dict[Hashable, TaskResult] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._results

    def get(self, key: Hashable) -> TaskResult | None:
        """The result under `key`, or None."""
        return self._results.get(key)

    def put(self, key: Hashable, result: TaskResult) -> None:
        """Keep a result."""
        self._results[key] = result


process_store = ResultStore()
"""What this process has evaluated: the base and the experts of a sweep are run once, not once a job."""


@dataclass(frozen=True)
class DiskStore:
    """Task results in a directory that processes and machines may share, one file each, named by its key.

    No trouble with the directory costs a run: what cannot be read is evaluated, what cannot be written is not kept, and
    a warning is logged.

    Args:
        directory: Where; it is made when the first result is kept.
    """

    directory: Path

    def path(self, key: str) -> Path:
        """The file of a key."""
        return record_path(self.directory, key)

    def holds(self, depends_on: dict[str, Any]) -> bool:
        """Whether there is a result, without a look at it."""
        return self.path(fingerprint_config(depends_on)).exists()

    def get_or_run(
        self, depends_on: dict[str, Any], evaluate: Callable[[], TaskResult], label: str, leads: bool = True
    ) -> TaskResult:
        """The result that is known, or else that of `evaluate`, which is kept.

        Two processes never evaluate the same at the same time: the second waits, and reads. The ranks of a distributed
        run call this together; one of them looks and writes for all.

        Args:
            depends_on: All that decides the result, in values that JSON can hold.
            evaluate: Computes the result.
            label: What it is the result of, in words.
            leads: Whether this is the rank that looks and writes.
        """
        key = fingerprint_config(depends_on)
        with ExitStack() as held:
            known = self._find_together(key, held, leads)
            if known is not None:
                return known
            result = evaluate()
            if leads:
                self._put(key, Record(depends_on, label, result))
            return result

    def _find_together(self, key: str, held: ExitStack, leads: bool) -> TaskResult | None:
        if not leads and not distributed.is_initialized():
            return self._get(key)  # Lightning has started this rank late: it repeats what the first found before
        while True:
            found, known = all_ranks(self._find(key, held) if leads else None)[0]
            if found:
                return cast("TaskResult | None", known)

    def _find(self, key: str, held: ExitStack) -> tuple[bool, TaskResult | None]:
        """The known result; or None, with the lock held; or, as the first value tells, someone else has that still."""
        known = self._get(key)
        if known is not None:
            return True, known
        if not self._lock(key, held):
            return False, None
        return True, self._get(key)

    def _lock(self, key: str, held: ExitStack) -> bool:
        """Keep others from evaluating what `key` stands for, until `held` closes; the system frees a dead holder's."""
        file = self.path(key).with_suffix(".lock")
        lock = FileLock(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            self._complain(error)
            return True

        @held.callback
        def release() -> None:
            if self.path(key).exists():  # whoever comes now finds the result: nobody needs the lock again
                with suppress(OSError):
                    file.unlink()
            lock.release()

        return True

    def _get(self, key: str) -> TaskResult | None:
        path = self.path(key)
        try:
            record = read_record(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedRecordError as error:
            _log.warning("%s; it is evaluated again", error)
            return None
        except OSError as error:
            self._complain(error)
            return None
        with suppress(OSError):
            os.utime(path)  # when it was last of use
        _keys[record.result] = key
        return record.result

    def _put(self, key: str, record: Record) -> None:
        try:
            write_record(self.path(key), record)
            _keys[record.result] = key
        except Exception as error:  # whatever it is, the result is worth more than its copy
            self._complain(error.__cause__ or error)

    def _complain(self, error: BaseException) -> None:
        reason = getattr(error, "strerror", None) or error
        _warn_once(f"the result store {self.directory} fails, so results may be evaluated more than once: {reason}")


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)
