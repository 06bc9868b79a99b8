"""A leaderboard as files beside each other: for a spreadsheet, a wiki, a paper and a program."""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from fusion_eval.report.atomic import atomic_file
from fusion_eval.report.intervals import Measured
from fusion_eval.report.latex import latex_table
from fusion_eval.report.leaderboard import Entry, Leaderboard
from fusion_eval.report.leaderboard_rows import header, notes, rows

__all__ = ["write_leaderboard"]


def write_leaderboard(board: Leaderboard, directory: Path) -> list[Path]:
    """Write leaderboard.csv, .md, .tex and .json; equal runs give equal bytes.

    Raises:
        FusionEvalError: A file cannot be written.

    Returns:
        The files.
    """
    files = {
        "csv": _csv(board, directory),
        "md": _markdown(board),
        "tex": latex_table(board),
        "json": _json(board, directory),
    }
    paths = [directory / f"leaderboard.{suffix}" for suffix in files]
    for path, text in zip(paths, files.values(), strict=True):
        with atomic_file(path) as file:
            file.write(text.encode(errors="backslashreplace"))
    return paths


def _csv(board: Leaderboard, directory: Path) -> str:
    names = dict.fromkeys(name for entry in board.entries for name in entry.others)
    columns = ["rank", "run", "directory", "selected_on", "measured_on", "p_value", "tied", "headline"]
    columns += [f"headline_{part}" for part in ("standard_error", "low", "high")]
    columns += [f"{name}{part}" for name in names for part in ("", "_standard_error")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for rank, entry in enumerate(board.entries, start=1):
        others = [entry.others.get(name, Measured(None)) for name in names]
        writer.writerow(
            [rank, entry.label, _relative(entry, directory), entry.selected_on, "+".join(entry.splits)]
            + [entry.p_value, entry.tied, *asdict(entry.headline).values()]
            + [part for measured in others for part in (measured.value, measured.standard_error)]
        )
    return text.getvalue()


def _json(board: Leaderboard, directory: Path) -> str:
    document = asdict(board)
    for row, entry in zip(document["entries"], board.entries, strict=True):
        row["directory"] = _relative(entry, directory)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _markdown(board: Leaderboard) -> str:
    def row(texts: Iterable[str]) -> str:
        return f"| {' | '.join(_plain(text).replace('|', chr(92) + '|') for text in texts)} |"

    names = header(board)
    lines = [row(names), row(["---"] * len(names)), *map(row, rows(board))]
    sections = ["# Leaderboard", *(f"**{_plain(text)}**" for text in board.warnings), "\n".join(lines)]
    sections += [_list(notes(board))] if notes(board) else []
    sections += ["## Not ranked", _list(board.unranked)] if board.unranked else []
    return "\n\n".join(sections) + "\n"


def _list(texts: Sequence[str]) -> str:
    return "\n".join(f"* {_plain(text)}" for text in texts)


def _plain(text: str) -> str:
    """One line that starts no HTML."""
    return html.escape(" ".join(text.split()), quote=False)


def _relative(entry: Entry, directory: Path) -> str:
    """With forward slashes, from where the leaderboard is: a sweep that moves keeps its bytes."""
    return "" if entry.directory is None else Path(os.path.relpath(entry.directory, directory.resolve())).as_posix()
