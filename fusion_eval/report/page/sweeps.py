"""How the result depends on each hyper-parameter that was swept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Leaderboard
from fusion_eval.report.page.settings import Settings, flatten
from fusion_eval.report.runs import Run

__all__ = ["Line", "Panel", "sweep_panels"]

_NO_PARAMETER = ("runner", "selected_on", "progress", "objective", "taskpool")
"""Root keys whose numbers are no hyper-parameters, or copies of others."""


@dataclass(frozen=True)
class Line:
    """Runs that differ in one hyper-parameter only.

    Args:
        label: The other settings that tell this line from its neighbours; empty where there are none.
        points: Value of the hyper-parameter and what was measured, ascending.
    """

    label: str
    points: tuple[tuple[float, Measured], ...]


@dataclass(frozen=True)
class Panel:
    """A hyper-parameter of a method.

    Args:
        method: Name of its class.
        parameter: Its dotted key, without "model.".
        lines: The best first.
    """

    method: str
    parameter: str
    lines: tuple[Line, ...]


def sweep_panels(board: Leaderboard, runs: Iterable[Run]) -> list[Panel]:
    """Find every number that took two values or more while all other settings of a method stayed.

    Args:
        board: The leaderboard: what was measured.
        runs: Those it ranks: how it was set.

    Returns:
        In the order of the leaderboard: the panel with the best run first.
    """
    configs = {run.directory: run.config for run in runs}
    methods: dict[str, list[tuple[Settings, Measured]]] = {}
    for entry in board.entries:
        settings = flatten(configs[entry.directory] if entry.directory is not None else {})
        settings = {key: value for key, value in settings.items() if key.partition(".")[0] not in _NO_PARAMETER}
        methods.setdefault(str(settings.get("model._target_", "")), []).append((settings, entry.headline))
    panels = []
    for method, points in methods.items():
        varied = [key for key in points[0][0] if len({str(settings.get(key)) for settings, _ in points}) > 1]
        for key in varied:
            others = [other for other in varied if other != key]
            if lines := _lines(key, others, points):
                name = method.rpartition(".")[2] or "runs"
                panels.append(Panel(name, key.removeprefix("model."), tuple(lines)))
    return panels


def _lines(key: str, others: list[str], points: list[tuple[Settings, Measured]]) -> list[Line]:
    """A line for each combination of the other settings; none for a key that is no hyper-parameter with a scale."""
    if key.rpartition(".")[2] == "seed" or not all(_is_number(settings.get(key)) for settings, _ in points):
        return []
    lines: dict[str, dict[float, Measured]] = {}
    for settings, measured in points:
        label = ", ".join(f"{other.removeprefix('model.')}={settings.get(other)}" for other in others)
        lines.setdefault(label, {}).setdefault(float(settings[key]), measured)  # of runs set alike, the better
    return [Line(label, tuple(sorted(line.items(), key=_first))) for label, line in lines.items() if len(line) > 1]


def _first(point: tuple[float, Measured]) -> float:
    return point[0]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
