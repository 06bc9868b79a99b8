"""What a run says of itself: its settings, and where its numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion_eval.report.page.settings import flatten
from fusion_eval.report.runs import Run

__all__ = ["Facts", "facts"]


@dataclass(frozen=True)
class Facts:
    """Dotted keys to values.

    Args:
        settings: The resolved configuration.
        origin: Status, splits, command, versions, git, hardware, times, and what the merge says of itself.
    """

    settings: dict[str, Any]
    origin: dict[str, Any]


def facts(run: Run) -> Facts:
    """Flatten the configuration and the provenance of a run."""
    document = run.document
    provenance = {key: value for key, value in document["provenance"].items() if key != "config"}
    origin = {
        "status": run.status,
        "hyper-parameters selected on": run.selected_on,
        "measured on": "+".join(run.splits) or "an unnamed split",
        "directory": run.directory.name,
        **flatten(provenance),
        **{f"merge.{key}": value for key, value in flatten(document["merge"]).items() if key},
        **{f"samples of {task}": count for task, count in document["counts"].items()},
        **{f"{task} evaluated at": time for task, time in document["evaluated_at"].items()},
        "seconds of evaluation": round(sum(document["seconds"].values()), 2),
    }
    return Facts(flatten(run.config), {key: value for key, value in origin.items() if value is not None})
