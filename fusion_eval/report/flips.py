"""What merging did to single samples: right before and after, lost, gained, or never right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "Flips", "count_flips", "count_patterns", "flips_by_class"]

PATTERNS = {
    (True, True, True): "kept: all three right",
    (False, True, True): "kept: learnt by the expert, still right",
    (True, False, True): "kept: unlearnt by the expert, right again",
    (False, False, True): "gained: only the merged model right",
    (True, True, False): "lost: base and expert right",
    (False, True, False): "lost: learnt by the expert, wrong again",
    (True, False, False): "never: the expert had lost it already",
    (False, False, False): "never: all three wrong",
}
"""Whether base, expert and merged model are right, and what that is called."""


@dataclass(frozen=True)
class Flips:
    """How many samples went from one model to another.

    Args:
        kept: Right with both.
        lost: Right with the first only.
        gained: Right with the second only.
        never: Right with neither.
    """

    kept: int
    lost: int
    gained: int
    never: int


def count_flips(before: npt.ArrayLike, after: npt.ArrayLike) -> Flips:
    """Compare the right answers of two models on the same samples.

    Args:
        before: Shape `(n,)`: 1 or True where the first model is right.
        after: The same of the second model.

    Example:
        >>> count_flips([1, 1, 0, 0], [1, 0, 1, 1])
        Flips(kept=1, lost=1, gained=2, never=0)
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    counts = [first & second, first & ~second, ~first & second, ~first & ~second]
    return Flips(*(int(count.sum()) for count in counts))


def flips_by_class(before: npt.ArrayLike, after: npt.ArrayLike, target: npt.ArrayLike) -> dict[int, Flips]:
    """The same for the samples of each class, in the order of the classes.

    Args:
        before: As for `count_flips`.
        after: As for `count_flips`.
        target: Shape `(n,)`, integer: the class of each sample.

    Example:
        >>> flips_by_class([1, 0], [1, 1], [3, 7])[7]
        Flips(kept=0, lost=0, gained=1, never=0)
    """
    first, second, classes = np.asarray(before), np.asarray(after), np.asarray(target)
    return {int(c): count_flips(first[classes == c], second[classes == c]) for c in np.unique(classes)}


def count_patterns(right: Mapping[str, npt.ArrayLike]) -> dict[str, int]:
    """How many samples follow each of the `PATTERNS` of base, expert and merged model.

    Args:
        right: "base", "expert" and "merged" to shape `(n,)`: 1 or True where that model is right.

    Example:
        >>> counts = count_patterns({"base": [0, 0], "expert": [1, 1], "merged": [1, 0]})
        >>> {name: count for name, count in counts.items() if count}
        {'kept: learnt by the expert, still right': 1, 'lost: learnt by the expert, wrong again': 1}
    """
    rows = np.stack([np.asarray(right[name], dtype=bool) for name in ("base", "expert", "merged")], axis=1)
    return {name: int((rows == np.array(pattern)).all(axis=1).sum()) for pattern, name in PATTERNS.items()}
