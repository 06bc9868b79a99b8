"""Where a dotted tensor name can be cut into a prefix and the name below it."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["splits"]


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a name in two after a dot, the empty prefix first.

    Example:
        >>> list(splits("a.b.weight"))
        [('', 'a.b.weight'), ('a.', 'b.weight'), ('a.b.', 'weight')]
    """
    parts = name.split(".")
    for depth in range(len(parts)):
        rest = ".".join(parts[depth:])
        yield name.removesuffix(rest), rest
