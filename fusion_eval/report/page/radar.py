"""Models against the experts, a spoke a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fusion_eval.report.page.svg import element

__all__ = ["radar"]

_SIZE, _RADIUS = (360, 280), 100.0


def radar(tasks: Sequence[str], models: Mapping[str, Sequence[float]]) -> Markup | None:
    """Draw models as polygons; the ring at 1 is the experts.

    Args:
        tasks: A spoke each.
        models: Name to the ratio of its primary metric to that of the task's expert, in the order of the tasks. They
            are drawn in the colours `line-0`, `line-1`, ... of the style.

    Returns:
        None for fewer than three tasks: no polygon.
    """
    if len(tasks) < 3:
        return None
    largest = max([1.0, *(value for values in models.values() for value in values)])
    unit = _RADIUS / min(largest, 1.5)

    def corner(spoke: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * spoke / len(tasks) - math.pi / 2
        radius = unit * min(max(value, 0.0), 1.5)
        return _SIZE[0] / 2 + radius * math.cos(angle), _SIZE[1] / 2 + radius * math.sin(angle)

    def polygon(values: Sequence[float], style: str, *children: str) -> Markup:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (corner(*pair) for pair in enumerate(values)))
        return element("polygon", *children, points=corners, class_=style)

    rings = [polygon([ring] * len(tasks), "grid") for ring in (0.25, 0.5, 0.75)]
    spokes = [_spoke(corner(index, 0.0), corner(index, 1.0)) for index in range(len(tasks))]
    names = [_name(task, corner(index, 0.0), corner(index, 1.0)) for index, task in enumerate(tasks)]
    scale = [
        element("text", f"{ring:g}", x=corner(0, ring)[0] + 4, y=corner(0, ring)[1] + 4, class_="tick")
        for ring in (0.5,)
    ]
    shapes = [
        polygon(values, f"shape line-{index}", element("title", _description(name, tasks, values)))
        for index, (name, values) in enumerate(models.items())
    ]
    expert = polygon([1.0] * len(tasks), "experts", element("title", "experts, each on its own task: 1"))
    parts = [*rings, *spokes, expert, *reversed(shapes), *names, *scale]
    box = f"0 0 {_SIZE[0]} {_SIZE[1]}"
    return element("svg", *parts, viewBox=box, class_="radar", role="img", aria_label="radar plot of ratios to experts")


def _spoke(centre: tuple[float, float], tip: tuple[float, float]) -> Markup:
    return element("line", x1=centre[0], y1=centre[1], x2=tip[0], y2=tip[1], class_="grid")


def _name(task: str, centre: tuple[float, float], tip: tuple[float, float]) -> Markup:
    """The name of a task, outside its spoke."""
    dx, dy = tip[0] - centre[0], tip[1] - centre[1]
    length = math.hypot(dx, dy)
    anchor = "middle" if abs(dx) < 0.2 * length else "start" if dx > 0 else "end"
    shown = task if len(task) <= 14 else f"{task[:13]}…"
    x, y = tip[0] + 10 * dx / length, tip[1] + 14 * dy / length + 4
    return element("text", shown, element("title", task), x=x, y=y, text_anchor=anchor)


def _description(name: str, tasks: Sequence[str], values: Sequence[float]) -> str:
    return f"{name}: " + ", ".join(f"{task} {value:.3f}" for task, value in zip(tasks, values, strict=True))
