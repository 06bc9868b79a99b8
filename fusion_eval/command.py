"""How our commands end when something goes wrong: one message, an exit code, no traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusion_eval.errors import FusionEvalError

__all__ = ["ending_well", "is_first_process", "writable_directory"]


@contextmanager
def ending_well(name: str, *mistakes: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake into one message and exit code 1; end quietly when nobody reads on, as `head` does.

    With the environment variable `HYDRA_FULL_ERROR=1` mistakes keep their traceback.

    Args:
        name: Of the command.
        mistakes: What counts as one beside `FusionEvalError`.

    Raises:
        SystemExit: With the message.

    Example:
        >>> with ending_well("fusion-eval"):
        ...     raise FusionEvalError("limit: expected an integer >= 1, found -3")
        Traceback (most recent call last):
        SystemExit: fusion-eval: error: limit: expected an integer >= 1, found -3
    """
    kinds: tuple[type[Exception], ...] = (FusionEvalError, *mistakes)
    try:
        yield
        sys.stdout.flush()  # what nobody reads shows here, and not when the interpreter ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except kinds as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        cause = "" if error.__cause__ is None or isinstance(error, FusionEvalError) else f"\n{error.__cause__}"
        sys.exit(f"{name}: error: {error}{cause}")


def writable_directory(path: Path, setting: str) -> Path:
    """Make a directory, and find out that nothing can be written there before there is something to write.

    Args:
        path: The directory.
        setting: What it was given by, for the message.

    Raises:
        FusionEvalError: It cannot be made, or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionEvalError(f"{setting}={path}: cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise FusionEvalError(f"{setting}={path}: no permission to write there")
    return path


def is_first_process() -> bool:
    """Whether this is no child of a distributed run: those replay the command of the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
