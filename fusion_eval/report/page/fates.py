"""The flip table: from base over expert to merged model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fusion_eval.report.flips import PATTERNS, Flips, count_patterns, flips_by_class
from fusion_eval.report.page.trios import Trio

__all__ = ["FATES", "Flip", "count_fates", "flip_table", "losing_classes"]

FATES = tuple(dict.fromkeys(name.partition(":")[0] for name in PATTERNS.values()))
"""What patterns have in common: kept, gained, lost or never."""


@dataclass(frozen=True)
class Flip:
    """A row: what may become of a sample.

    Args:
        fate: One of `FATES`.
        text: What sets it apart from others of the same fate.
        right: Whether base, expert and merged model are right.
        counts: Task name to the number of samples.
    """

    fate: str
    text: str
    right: tuple[bool, bool, bool]
    counts: dict[str, int]


def flip_table(trios: Mapping[str, Trio]) -> list[Flip]:
    """Count the samples that follow each of the `PATTERNS`; tasks without right and wrong are left out.

    Returns:
        A row a pattern; none where no task can be counted.
    """
    counts = {
        task: count_patterns({role: columns["score"] for role, columns in trio.samples.items()})
        for task, trio in trios.items()
        if trio.binary
    }
    rows = []
    for right, name in PATTERNS.items():
        fate, _, text = name.partition(": ")
        rows.append(Flip(fate, text, right, {task: own[name] for task, own in counts.items()}))
    return rows if counts else []


def count_fates(rows: list[Flip]) -> dict[str, dict[str, int]]:
    """Task name to the number of samples of each of the `FATES`."""
    tasks = rows[0].counts if rows else {}
    return {task: {fate: sum(row.counts[task] for row in rows if row.fate == fate) for fate in FATES} for task in tasks}


def losing_classes(trios: Mapping[str, Trio], most: int = 10) -> dict[str, list[tuple[int, Flips]]]:
    """The classes of which the merged model lost most of what the expert had right.

    Args:
        trios: Task name to its samples.
        most: Of each task.

    Returns:
        Task name to classes and what became of their samples, the largest net loss first; without those that lost none.
    """
    found = {}
    for task, trio in trios.items():
        merged, expert = trio.samples["merged"], trio.samples["expert"]
        if trio.binary and np.issubdtype(merged.get("target", np.array("")).dtype, np.integer):
            classes = flips_by_class(expert["score"], merged["score"], merged["target"]).items()
            losing = [(name, flips) for name, flips in classes if flips.lost]
            found[task] = sorted(losing, key=lambda pair: (pair[1].gained - pair[1].lost, pair[0]))[:most]
    return {task: rows for task, rows in found.items() if rows}
