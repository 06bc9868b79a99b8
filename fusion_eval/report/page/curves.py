"""Scaling curves: small plots that share their vertical axis, so that one look compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fusion_eval.report.intervals import Measured
from fusion_eval.report.page.svg import element, scale, ticks
from fusion_eval.report.page.sweeps import Line, Panel

__all__ = ["MOST_LINES", "curve", "shared_range"]

MOST_LINES = 6
"""Of a plot: as many as there are colours and dashes to tell them apart."""

_WIDTH, _HEIGHT = 320.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 272.0, 10.0, 162.0


def shared_range(panels: Sequence[Panel], levels: Mapping[str, float]) -> tuple[float, float]:
    """The ends of a vertical axis that holds every interval of some panels, and levels."""
    measured = [point for panel in panels for line in panel.lines[:MOST_LINES] for _, point in line.points]
    ends = [end for point in measured for end in _ends(point)] + list(levels.values())
    margin = 0.04 * (max(ends) - min(ends)) or 0.01
    return min(ends) - margin, max(ends) + margin


def curve(panel: Panel, limits: tuple[float, float], levels: Mapping[str, float]) -> Markup:
    """Draw a panel.

    Args:
        panel: Its first `MOST_LINES` lines are drawn, in the colours `line-0`, `line-1`, ... of the style.
        limits: Ends of the vertical axis.
        levels: Name to a value that is drawn as a horizontal line.
    """
    values = [x for line in panel.lines[:MOST_LINES] for x, _ in line.points]
    low, high = min(values), max(values)
    log = low > 0 and high / low >= 50
    across = scale((low, high), (_LEFT + 12, _RIGHT - 12), log=log)
    up = scale(limits, (_BOTTOM, _TOP))
    parts = [_horizontal(up(tick), "grid", f"{tick:g}") for tick in ticks(*limits)]
    parts += [_level(name, up(value), value) for name, value in levels.items()]
    parts += [_vertical(across(x), f"{x:g}") for x in _shown(sorted(set(values)))]
    for index, line in reversed(list(enumerate(panel.lines[:MOST_LINES]))):
        points = [(across(x), up(measured.value or 0.0)) for x, measured in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn = element("polyline", points=path, class_="line")
        marks = [
            _interval(x, [up(end) for end in _ends(measured)])
            + element("circle", element("title", _told(panel, line, value, measured)), cx=x, cy=y, r=3.2)
            for (x, y), (value, measured) in zip(points, line.points, strict=True)
        ]
        parts.append(element("g", drawn, *marks, class_=f"line-{index}"))
    label = f"{panel.method}: {panel.parameter}"
    return element("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="curve", role="img", aria_label=label)


def _ends(measured: Measured) -> list[float]:
    value = measured.value or 0.0
    return [value if end is None else end for end in (measured.low, measured.high)]


def _shown(values: list[float]) -> list[float]:
    """All values if there is room for their labels, else some of them."""
    step = -(-len(values) // 7)
    return values[::step]


def _horizontal(y: float, style: str, text: str) -> Markup:
    line = element("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_=style)
    return line + element("text", text, x=_LEFT - 6, y=y + 3.5, text_anchor="end", class_="tick")


def _vertical(x: float, text: str) -> Markup:
    line = element("line", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 4, class_="grid")
    return line + element("text", text, x=x, y=_BOTTOM + 17, text_anchor="middle", class_="tick")


def _level(name: str, y: float, value: float) -> Markup:
    line = element("line", element("title", f"{name}: {value:.4f}"), x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="level")
    return line + element("text", name, x=_RIGHT + 6, y=y + 3.5, class_="tick")


def _interval(x: float, ends: list[float]) -> Markup:
    return element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="whisker")


def _told(panel: Panel, line: Line, value: float, measured: Measured) -> str:
    where = f"{panel.method} {panel.parameter}={value:g}" + (f", {line.label}" if line.label else "")
    ends = (
        "" if measured.low is None or measured.high is None else f" (95 %: {measured.low:.4f} to {measured.high:.4f})"
    )
    return f"{where}: {measured.value or 0.0:.4f}{ends}"
