"""A leaderboard in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_eval.report.leaderboard_rows import header, notes, rows

if TYPE_CHECKING:
    from rich.console import Group

    from fusion_eval.report.leaderboard import Leaderboard

__all__ = ["leaderboard_table", "print_leaderboard"]


def leaderboard_table(board: Leaderboard) -> Group:
    """Lay out a leaderboard for `rich.print`: the table, what the marks mean, warnings, and what is not ranked."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header(board, brief=True):
        number = name not in ("run", "chosen on", "measured on")
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=number, overflow="fold")
    lines = rows(board, brief=True)
    for line, entry in zip(lines, (*board.entries, *board.references), strict=True):
        style = "bold" if entry.tied else "dim" if entry.directory is None else None
        table.add_row(*map(Text, line), style=style, end_section=entry is board.entries[-1])
    return Group(
        table,
        *(Text(text) for text in notes(board)),
        *(Text(f"! {text}", style="bold yellow") for text in board.warnings),
        *(Text(f"not ranked: {text}", style="red") for text in board.unranked),
    )


def print_leaderboard(board: Leaderboard) -> None:
    """Print it on standard output."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 100)  # on a narrower terminal lines wrap, which loses no digit and no name
    console.print(leaderboard_table(board))
