"""A run against the base and the experts, as it was measured against them."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_eval.report.runs import Run

__all__ = ["ratios", "reference_scores"]


def reference_scores(run: Run, role: str) -> dict[str, float]:
    """The primary metric of "base", or of "experts" each on its own task; without tasks that have none."""
    found = run.document["references"][role]
    scores = {task: found[task].get(run.primary(task)) for task in run.tasks if task in found}
    return {task: score for task, score in scores.items() if score is not None}


def ratios(run: Run, scores: Mapping[str, float | None], experts: Mapping[str, float]) -> list[float] | None:
    """Scores relative to the experts', in the order of the run's tasks; None unless each is defined."""
    lower = any(run.document["higher_is_better"].get(task) is False for task in run.tasks)
    found = [
        score / experts[task]
        for task in run.tasks
        if (score := scores.get(task)) is not None and experts.get(task, 0.0) > 0
    ]
    return None if lower or len(found) < len(run.tasks) else found
