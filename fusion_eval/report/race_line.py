"""What became of a race, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["race_result"]


def race_result(race: Mapping[str, Any]) -> str:
    """A line for tables and the screen.

    Args:
        race: As report.json has it.

    Example:
        >>> race = {"samples": 62, "of": 3067, "at_most": -0.0312, "confidence": 0.95, "against": "4"}
        >>> race_result(race)
        'after 62 of 3,067 samples, as it is worse than job 4 by 0.0312 or more (95 % confidence)'
    """
    return (
        f"after {race['samples']:,} of {race['of']:,} samples, as it is worse than job {race['against']} by "
        f"{-race['at_most']:.4f} or more ({100 * race['confidence']:g} % confidence)"
    )
