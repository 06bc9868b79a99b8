"""The errors a user can cause. Each message names the place, the bad value and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FusionEvalError",
    "MergeError",
    "TaskError",
    "few",
    "suggest",
]


class FusionEvalError(Exception):
    """Base of every error that is the input's fault, shown to the user as one message without a traceback."""


class ConfigError(FusionEvalError):
    """A YAML file, an override or an argument is wrong."""


class DataError(FusionEvalError):
    """A data source cannot be read, or does not hold what it should."""


class CheckpointError(FusionEvalError):
    """A checkpoint cannot be read, or does not fit the architecture."""


class MergeError(FusionEvalError):
    """State dicts cannot be merged, or the result is not finite."""


class TaskError(FusionEvalError):
    """A task cannot be evaluated with the model under test."""


def few(names: Sequence[str]) -> str:
    """The first five names, and whether there are more.

    Example:
        >>> few(["a", "b"]), few(list("abcdef"))
        ('a, b', 'a, b, c, d, e, ...')
    """
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest known one, and all of them.

    Example:
        >>> suggest("optdigit", ["mnist", "optdigits"])
        "; did you mean 'optdigits'? Known: mnist, optdigits"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} Known: {', '.join(names) or 'none'}"
