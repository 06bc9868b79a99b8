"""The few parts that plots are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup, escape

__all__ = ["element", "scale", "ticks"]


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An SVG element; text is escaped.

    Args:
        name: Of the element.
        children: Markup as it is, other text escaped.
        attributes: `class_` becomes class, `text_anchor` text-anchor; floats are rounded to a tenth of a pixel.

    Example:
        >>> print(element("text", "a < b", x=1.26, text_anchor="end"))
        <text x="1.3" text-anchor="end">a &lt; b</text>
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    opening = "".join(f' {key}="{escape(_attribute(value))}"' for key, value in pairs)
    return Markup(f"<{name}{opening}>{Markup().join(children)}</{name}>")


def scale(domain: tuple[float, float], pixels: tuple[float, float], *, log: bool = False) -> Callable[[float], float]:
    """Map numbers to pixels; an empty domain maps to the middle.

    Example:
        >>> scale((0.0, 1.0), (10.0, 110.0))(0.5)
        60.0
    """
    low, high = (math.log(end) if log else end for end in domain)
    start, end = pixels

    def position(value: float) -> float:
        share = 0.5 if high == low else ((math.log(value) if log else value) - low) / (high - low)
        return start + share * (end - start)

    return position


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in an interval, ascending: steps of 1, 2 or 5 times a power of ten.

    Args:
        low: Lower end.
        high: Upper end.
        most: How many at most.

    Example:
        >>> ticks(0.43, 0.78)
        [0.5, 0.6, 0.7]
    """
    if not high > low:
        return [low]
    power = math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * 10.0**power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _attribute(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
