"""What the tables of a leaderboard show: the same cells for the terminal and for Markdown."""

from __future__ import annotations

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Leaderboard

__all__ = ["cell", "header", "notes", "rows"]


def cell(measured: Measured) -> str:
    """A number with its standard error.

    Example:
        >>> cell(Measured(0.5, 0.0123))
        '0.5000 ± 0.0123'
    """
    if measured.value is None:
        return "-"
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.4f}"
    return f"{measured.value:.4f}{error}"


def notes(board: Leaderboard) -> list[str]:
    """What stands below the table."""
    best = board.entries[0]
    lines = []
    if not _mixed(board):
        splits = "+".join(best.splits) or "an unnamed split"
        lines.append(f"hyper-parameters chosen on: {best.selected_on}; measured on: {splits}")
    tied = sum(entry.tied for entry in board.entries) - 1
    tested = sum(entry.p_value is not None for entry in board.entries)
    if tested:
        lines.append(
            f"=: not significantly different from the best ({tied} of {tested};"
            f" {'sign flips of groups' if board.groups else 'paired bootstrap over samples'},"
            " Holm-adjusted p >= 0.05)"
        )
    if board.groups:
        counted = ", ".join(f"{task} ({n} groups)" for task, n in board.groups.items())
        lines.append(f"samples that are not independent share errors, and are tested together: {counted}")
    if board.corrected is not None and best.headline.value is not None:
        lines.append(
            f"the best of {tested + 1} on the same samples has {board.sort} {best.headline.value:.4f};"
            f" corrected for having been picked as the best: {board.corrected:.4f} (arXiv 1708.07180)"
        )
    return lines


def header(board: Leaderboard, *, brief: bool = False) -> list[str]:
    """Names of the columns; those of the splits only where the runs differ in them.

    Args:
        board: The leaderboard.
        brief: Without intervals, and without standard errors of tasks: for a terminal.
    """
    same = len(set(board.tasks.values())) == 1
    tasks = [task if same else f"{task} ({metric})" for task, metric in board.tasks.items()]
    splits = ["chosen on", "measured on"] if _mixed(board) else []
    return ["", "run", board.sort, *([] if brief else ["95 % interval"]), *tasks, *splits]


def rows(board: Leaderboard, *, brief: bool = False) -> list[list[str]]:
    """A row a run, best first, then the base and the experts; texts under each name of the header."""
    table = []
    for rank, entry in enumerate((*board.entries, *board.references), start=1):
        place = f"{rank}{' =' if entry.tied and rank > 1 else ''}" if rank <= len(board.entries) else ""
        tasks = [entry.tasks.get(task, Measured(None)) for task in board.tasks]
        if brief:
            tasks = [Measured(measured.value) for measured in tasks]
        interval = [] if brief else [_interval(entry.headline)]
        splits = [entry.selected_on, "+".join(entry.splits)] if _mixed(board) else []
        table.append([place, entry.label, cell(entry.headline), *interval, *map(cell, tasks), *splits])
    return table


def _mixed(board: Leaderboard) -> bool:
    return len({(entry.selected_on, entry.splits) for entry in board.entries}) > 1


def _interval(measured: Measured) -> str:
    return "-" if measured.low is None or measured.high is None else f"{measured.low:.4f} to {measured.high:.4f}"
