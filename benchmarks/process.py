"""A command in a process of its own, and the time and memory it takes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Resident", "Usage", "resident_memory", "run_measured"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_INTERVAL = 0.002


class Resident(NamedTuple):
    """Resident memory of a process at a time, in bytes: what it allocated, and with pages of mapped files."""

    anonymous: int
    total: int


@dataclass(frozen=True)
class Usage:
    """What a process took.

    Attributes:
        seconds: From its start to its end.
        peak: The largest of each kind of memory seen, every 2 ms.
    """

    seconds: float
    peak: Resident


def run_measured(
    command: Sequence[str], environment: Mapping[str, str], log: Path, limit: float | None = None
) -> Usage:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        environment: Added to this process's.
        log: Gets what it prints.
        limit: Seconds after which it is killed.

    Raises:
        TimeoutError: it took longer.
        SystemExit: it failed; the end of what it printed is in the message.
    """
    samples = [Resident(0, 0)]
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT)
    while process.poll() is None:
        samples.append(resident_memory(process.pid))
        time.sleep(_INTERVAL)
        if limit and time.perf_counter() - start > limit:
            process.kill()
            process.wait()
            raise TimeoutError
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode}):\n{log.read_text()[-3000:]}")
    return Usage(seconds, Resident(*map(max, zip(*samples, strict=True))))


def resident_memory(pid: int | str = "self") -> Resident:
    """Resident memory of a process; zeros if it has ended and was not waited for."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return Resident((resident - shared) * _PAGE, resident * _PAGE)
