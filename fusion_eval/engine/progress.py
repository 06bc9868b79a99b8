"""What is seen while tasks run: a bar on a terminal, a line a task elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl

from fusion_eval.report import TaskResult

if TYPE_CHECKING:
    from rich.progress import Progress

    from fusion_eval.engine.module import TaskModule
    from fusion_eval.engine.reading import Batch

__all__ = ["TaskProgress"]


class TaskProgress(pl.Callback):
    """Shows on standard error which task of which model is running, on rank 0.

    Args:
        visible: Whether to show anything.
    """

    def __init__(self, visible: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=not visible)
        self._bar: Progress | None = None
        self._label = ""

    def announce(self, label: str) -> None:
        """Name what runs next."""
        self._label = label

    def done(self, result: TaskResult) -> None:
        """Leave a line about what was announced, once."""
        label, self._label = self._label, ""
        if not label or self._console.quiet:
            return
        value = f"{result.primary} {result.score:.4f}"
        self._console.print(f"{label:<24} {value}   {result.count} samples, {result.seconds:.1f} s", highlight=False)

    @contextmanager
    def preparing(self, name: str, samples: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while samples are prepared, from the first that is.

        Args:
            name: Of the task.
            samples: How many there are.

        Yields:
            What is told how many more are done.
        """

        def advance(done: int) -> None:
            if self._bar is None:
                self._open(f"preparing {name}", samples)
            self._advance(done)

        try:
            yield advance
        finally:
            self._close()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if trainer.is_global_zero:
            self._open(self._label, len(cast("TaskModule", pl_module).share))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Advance the bar."""
        self._advance(len(batch.indices))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is readable."""
        self._close()

    def _open(self, label: str, samples: int) -> None:
        if self._console.is_terminal and not self._console.quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(f"{label:<24}", total=samples)
            self._bar.start()

    def _advance(self, samples: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], samples)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
