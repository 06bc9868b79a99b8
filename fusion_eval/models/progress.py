"""Shows on standard error how far a merge is."""

from __future__ import annotations

from fusion_eval.merging.tensors import Tensors

__all__ = ["shown"]


def shown(tensors: Tensors, total: int, description: str) -> Tensors:
    """The same tensors, while a bar in the terminal counts them and the time; elsewhere nothing is shown.

    Args:
        tensors: Names and merged tensors.
        total: How many will come.
        description: What stands before the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(tensors, total, description=description)
