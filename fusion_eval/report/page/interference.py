"""What each expert does to each task, where the runs of a leaderboard show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fusion_eval.report.leaderboard import Leaderboard
from fusion_eval.report.page.settings import flatten
from fusion_eval.report.runs import Run

__all__ = ["Matrix", "interference"]

Scores = dict[str, float]


@dataclass(frozen=True)
class Matrix:
    """Changes of the primary metric.

    Args:
        title: What was changed.
        explanation: What a cell is.
        experts: Names of the columns.
        changes: Task name to the change that each expert makes, in that order; None where not measured.
    """

    title: str
    explanation: str
    experts: tuple[str, ...]
    changes: dict[str, tuple[float | None, ...]]


def interference(board: Leaderboard, runs: Iterable[Run]) -> list[Matrix]:
    """Find runs that isolate an expert: those of one expert alone, and merges with all experts but one.

    Args:
        board: The leaderboard.
        runs: Those it ranks.
    """
    known = {run.directory: run for run in runs}
    ranked = [known[entry.directory] for entry in board.entries if entry.directory is not None]
    return [matrix for matrix in (_alone(board, ranked), _left_out(board, ranked)) if matrix is not None]


def _alone(board: Leaderboard, runs: list[Run]) -> Matrix | None:
    """Runs of `fusion_eval.merging.Expert` against the base."""
    alone: dict[str, Scores] = {}
    base: Scores = {}
    for run in runs:
        model = run.config.get("model")
        if isinstance(model, Mapping) and str(model.get("_target_")).endswith(".merging.Expert"):
            alone.setdefault(str(model["name"]), _scores(run))
            base = base or {task: found[run.primary(task)] for task, found in _base(run).items() if task in run.tasks}
    explanation = "One expert as it is: by how much it is better on each task than the base."
    return _matrix("Experts alone", explanation, board, alone, base, 1.0)


def _left_out(board: Leaderboard, runs: list[Run]) -> Matrix | None:
    """The best merge of all experts of which there are runs without one of them, otherwise set alike."""
    pools = [_merged(run) for run in runs]
    everyone = frozenset[str]().union(*pools)
    for whole, pool in zip(runs, pools, strict=True):
        if pool != everyone or len(everyone) < 2:
            continue
        without: dict[str, Scores] = {}
        for run, kept in zip(runs, pools, strict=True):
            if len(missing := everyone - kept) == 1 and _method(run) == _method(whole):
                without.setdefault(next(iter(missing)), _scores(run))
        explanation = "A merge of all experts, and of all but one: how much better each task is with that expert in it."
        name = str(_method(whole).get("model._target_", "")).rpartition(".")[2]
        if matrix := _matrix(f"Experts left out of {name}", explanation, board, without, _scores(whole), -1.0):
            return matrix
    return None


def _merged(run: Run) -> frozenset[str]:
    """The experts that have a part in a merge: those of the pool, but for weights of zero."""
    pool, model = run.config.get("modelpool"), run.config.get("model")
    experts = pool.get("experts") if isinstance(pool, Mapping) else None
    weights = model.get("weights") if isinstance(model, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    return frozenset(name for name in experts or () if weights.get(name) != 0)


def _method(run: Run) -> dict[str, object]:
    """The settings of a method but for weights, which say who is left out."""
    settings = flatten({"model": run.config.get("model")})
    return {key: value for key, value in settings.items() if not key.startswith("model.weights")}


def _matrix(
    title: str, explanation: str, board: Leaderboard, measured: dict[str, Scores], against: Scores, sign: float
) -> Matrix | None:
    def change(task: str, expert: str) -> float | None:
        score = measured[expert].get(task)
        if score is None or task not in against:
            return None
        return round(sign * (score - against[task]), 6) + 0.0  # no negative zero

    experts = tuple([task for task in board.tasks if task in measured] + sorted(measured.keys() - board.tasks.keys()))
    changes = {task: tuple(change(task, expert) for expert in experts) for task in board.tasks}
    known = any(cell is not None for cells in changes.values() for cell in cells)
    return Matrix(title, explanation, experts, changes) if known else None


def _scores(run: Run) -> Scores:
    scores = {task: run.value(f"{task}.{run.primary(task)}")[0] for task in run.tasks}
    return {task: score for task, score in scores.items() if score is not None}


def _base(run: Run) -> Mapping[str, Mapping[str, float]]:
    base: Mapping[str, Mapping[str, float]] = run.document["references"]["base"]
    return base
