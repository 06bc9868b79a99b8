"""The models that a merge is, where it is not the same for every task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fusion_eval.merging.method import MergingMethod, PerTaskMethod

__all__ = ["Variants"]


class Variants:
    """One backbone that takes turns at being the variants of a merge.

    Args:
        method: Makes the variants.
        experts: Those that have one.
        write: Writes what a method makes into the backbone, which holds what `method` itself makes at first.
    """

    def __init__(self, method: PerTaskMethod, experts: frozenset[str], write: Callable[[MergingMethod], None]) -> None:
        self._method = method
        self._experts = experts
        self._write = write
        self._written: str | Literal[False] | None = None

    def adapt(self, expert: str) -> None:
        """Become the variant for this expert's task; for that of no expert, what the method makes for all others."""
        wanted = expert if expert in self._experts else None
        if wanted != self._written:
            self._written = False  # nothing whole, should it fail
            self._write(self._method if wanted is None else self._method.variant(wanted))
            self._written = wanted

    def __repr__(self) -> str:
        return f"Variants({self._method!r})"
