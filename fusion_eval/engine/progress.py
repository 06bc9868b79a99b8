"""What is seen while tasks run: a bar on a terminal, a line a task elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from fusion_eval.report import TaskResult

if TYPE_CHECKING:
    from rich.progress import Progress

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
        if not self._label:
            return
        value = f"{result.primary} {result.score:.4f}"
        self._console.print(
            f"{self._label:<24} {value}   {result.count} samples, {result.seconds:.1f} s", highlight=False
        )
        self._label = ""

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if trainer.is_global_zero and self._console.is_terminal and not self._console.quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(f"{self._label:<24}", total=sum(trainer.num_test_batches))
            self._bar.start()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is readable."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
