"""leaderboard.html: all that the runs of a sweep show, on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Leaderboard
from fusion_eval.report.leaderboard_rows import notes
from fusion_eval.report.page.cells import column, losses
from fusion_eval.report.page.changes import changed_samples, count_changed
from fusion_eval.report.page.curves import MOST_LINES, curve, shared_range
from fusion_eval.report.page.facts import facts
from fusion_eval.report.page.fates import count_fates, flip_table, losing_classes
from fusion_eval.report.page.interference import interference
from fusion_eval.report.page.radar import radar
from fusion_eval.report.page.references import ratios, reference_scores
from fusion_eval.report.page.render import render
from fusion_eval.report.page.settings import split_common
from fusion_eval.report.page.sweeps import sweep_panels
from fusion_eval.report.page.trios import read_trios
from fusion_eval.report.runs import Run

__all__ = ["leaderboard_page"]

_MOST_PANELS = 24
_MOST_SHAPES = 3


def leaderboard_page(board: Leaderboard, runs: Sequence[Run], directory: Path) -> str:
    """Make the page; equal runs give equal text.

    Args:
        board: The leaderboard.
        runs: At least those it ranks, as it was made from them.
        directory: Where the page is going to be: links to the runs start there.
    """
    known = {run.directory: run for run in runs}
    ranked = [known[entry.directory] for entry in board.entries if entry.directory is not None]
    best = ranked[0]
    everyone = (*board.entries, *board.references)
    distances = losses(board, reference_scores(best, "experts"))
    headline = column([entry.headline for entry in everyone], ranked=len(ranked), lower=not board.higher_is_better)
    tasks = [
        column(
            [entry.tasks.get(task, Measured(None)) for entry in everyone],
            ranked=len(ranked),
            lower=task in board.lower,
            losses=distances[task],
        )
        for task in board.tasks
    ]
    panels = sweep_panels(board, ranked)
    levels = {
        entry.label.partition(",")[0]: entry.headline.value
        for entry in board.references
        if entry.headline.value is not None
    }
    limits = shared_range(panels, levels) if panels else (0.0, 1.0)
    names, shape = _radar(board, best)
    trios = read_trios(best)
    return render(
        "leaderboard.html.j2",
        board=board,
        notes=notes(board),
        mixed=len({(entry.selected_on, entry.splits) for entry in board.entries}) > 1,
        rows=list(zip(everyone, headline, zip(*tasks, strict=True), strict=True)),
        has_experts=bool(reference_scores(best, "experts")),
        radar=shape,
        radar_names=names,
        panels=[(panel, panel.lines[:MOST_LINES], curve(panel, limits, levels)) for panel in panels[:_MOST_PANELS]],
        panels_left_out=max(0, len(panels) - _MOST_PANELS),
        matrices=interference(board, ranked),
        flips=(flips := flip_table(trios)),
        fates=count_fates(flips),
        classes=losing_classes(trios),
        samples=changed_samples(trios),
        changed=count_changed(trios),
        details=_details(board, ranked, directory),
    )


def _radar(board: Leaderboard, best: Run) -> tuple[list[str], Markup | None]:
    """The best runs of different methods, and the base."""
    experts = reference_scores(best, "experts")
    shapes: dict[str, list[float]] = {}
    methods = set()
    for entry in board.entries:
        method = entry.label.partition(" ")[0]
        scores = {task: measured.value for task, measured in entry.tasks.items()}
        if method not in methods and len(shapes) < _MOST_SHAPES and (found := ratios(best, scores, experts)):
            methods.add(method)
            shapes[entry.label] = found
    if base := ratios(best, reference_scores(best, "base"), experts):
        shapes["base"] = base
    return list(shapes), radar(best.tasks, shapes) if shapes else None


def _details(board: Leaderboard, ranked: list[Run], directory: Path) -> dict[str, Any]:
    """What opens for a run; what all runs share is there once."""
    settings, own_settings = split_common([facts(run).settings for run in ranked])
    origin, own_origin = split_common([facts(run).origin for run in ranked])
    warnings = {text: index for index, text in enumerate(dict.fromkeys(_warnings(ranked)))}
    return {
        "tasks": board.tasks,
        "settings": settings,
        "origin": origin,
        "warnings": list(warnings),
        "runs": [
            {
                "label": entry.label,
                "page": _link(run.directory / "report.html", directory),
                "p": entry.p_value,
                "numbers": {name: _number(measured) for name, measured in entry.others.items()},
                "settings": own_settings[index],
                "origin": own_origin[index],
                "warnings": [warnings[text] for text in run.document["warnings"]],
            }
            for index, (entry, run) in enumerate(zip(board.entries, ranked, strict=True))
        ],
    }


def _warnings(ranked: list[Run]) -> list[str]:
    return [text for run in ranked for text in run.document["warnings"]]


def _number(measured: Measured) -> list[float | None]:
    return [None if one is None else float(f"{one:.5g}") for one in (measured.value, measured.standard_error)]


def _link(page: Path, directory: Path) -> str:
    """Where a page is, seen from a directory; empty where there is none."""
    return quote(Path(os.path.relpath(page, directory.resolve())).as_posix()) if page.is_file() else ""
