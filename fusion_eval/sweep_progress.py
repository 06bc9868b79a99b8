"""How far a sweep is: jobs done, the best so far, time left; seen from the reports that its jobs leave on disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fusion_eval.report.runs import Run

__all__ = ["SweepProgress"]

_INTERVAL = 1.0
"""Seconds between two looks at the reports of jobs in other processes."""

_RECENT = 10
"""Jobs that the time left is judged by: in a sweep that goes on, the first ones come from the result store."""


class SweepProgress:
    """Leaves a line on standard error whenever jobs are done.

    A line and no moving bar: jobs, of this process or of others, write to the same terminal. It looks when a job of
    this process ends; as long as there is none, jobs run elsewhere, and a thread looks every second.

    Args:
        directory: Of the sweep.
        total: How many jobs there are; None: unknown.
    """

    def __init__(self, directory: Path, total: int | None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._directory = directory
        self._total = total
        self._seen = {path: path.stat().st_mtime_ns for path in _reports(directory)}  # of an earlier sweep
        self._finished: dict[Path, Run] = {}
        self._times = [time.monotonic()]
        self._told = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep progress", daemon=True)

    def start(self) -> None:
        """Look every second, until `here` or `stop`."""
        self._thread.start()

    def here(self) -> None:
        """Jobs run in this process: look only when told to."""
        self._stop.set()
        self._thread.join()

    def stop(self) -> None:
        """Look for the last time."""
        self.here()
        self.look()

    def look(self) -> None:
        """Leave a line if jobs were finished since the last time."""
        for path in _reports(self._directory):
            self._read(path)
        if len(self._finished) > self._told:
            self._told = len(self._finished)
            self._times += [time.monotonic()] * (self._told + 1 - len(self._times))
            self._console.print(self._line(), style="bold", highlight=False, soft_wrap=True)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.look()

    def _read(self, path: Path) -> None:
        from fusion_eval.report.runs import read_run

        try:
            changed = path.stat().st_mtime_ns
            if self._seen.get(path) == changed:
                return
            run = read_run(path)
        except (OSError, DataError):  # a job that starts removes what an earlier one left
            return
        self._seen[path] = changed
        if run.status != "running":
            self._finished[path] = run

    def _line(self) -> str:
        total = "" if self._total is None else f" of {self._total}"
        failed = sum(run.status not in ("complete", "dropped") for run in self._finished.values())
        parts = [f"sweep: {self._told}{total} jobs done", *([f"{failed} failed"] if failed else [])]
        return ", ".join([*parts, *self._best(), *self._left()])

    def _best(self) -> Iterator[str]:
        from fusion_eval.report.headline import choose_headline, more_is_better, shared_objective

        runs = [run for run in self._finished.values() if run.status == "complete"]
        objective = shared_objective(runs) if runs else None
        try:
            key = choose_headline(runs, objective and objective.removeprefix("-"))
        except ConfigError:
            return
        higher = not objective.startswith("-") if objective else more_is_better(key, runs)
        values = {run.directory: value for run in runs if (value := run.value(key)[0]) is not None}
        best = (max if higher else min)(values, key=lambda directory: values[directory])
        yield f"best so far: {key} {values[best]:.4f} of job {best.relative_to(self._directory)}"

    def _left(self) -> Iterator[str]:
        if self._total is None or self._told >= self._total:
            return
        recent = self._times[-1 - _RECENT :]
        seconds = round((recent[-1] - recent[0]) / (len(recent) - 1) * (self._total - self._told))
        yield f"about {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def _reports(directory: Path) -> Iterator[Path]:
    """Every report.json of a job, without a look into the directories of jobs."""
    from fusion_eval.report.runs import SELECTED

    if not directory.is_dir():
        return
    with os.scandir(directory) as entries:
        folders = sorted(entry.path for entry in entries if entry.is_dir() and entry.name != SELECTED)
    for folder in folders:
        report = Path(folder, "report.json")
        if report.is_file():
            yield report
        else:
            yield from _reports(Path(folder))
