"""The pages on disk, beside the files they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusion_eval.report.atomic import atomic_file
from fusion_eval.report.leaderboard import Leaderboard
from fusion_eval.report.page.board_page import leaderboard_page
from fusion_eval.report.page.run_page import report_page
from fusion_eval.report.runs import Run, read_run

__all__ = ["write_leaderboard_page", "write_report_page"]


def write_leaderboard_page(board: Leaderboard, runs: Sequence[Run], directory: Path) -> Path:
    """Write leaderboard.html; equal runs give equal bytes.

    Args:
        board: The leaderboard.
        runs: Those it was made from.
        directory: Where to write.

    Raises:
        FusionEvalError: The file cannot be written.

    Returns:
        The file.
    """
    return _write(leaderboard_page(board, runs, directory), directory / "leaderboard.html")


def write_report_page(directory: Path) -> Path:
    """Write report.html from the report.json and the samples of a run; equal runs give equal bytes.

    Args:
        directory: Of the run.

    Raises:
        DataError: There is no report.json, or it was changed.
        FusionEvalError: The file cannot be written.

    Returns:
        The file.
    """
    return _write(report_page(read_run(directory)), directory / "report.html")


def _write(page: str, path: Path) -> Path:
    with atomic_file(path) as file:
        file.write(page.encode(errors="xmlcharrefreplace"))
    return path
