"""What the processes of a distributed run tell each other. Every function here must be called by all ranks together."""

from __future__ import annotations

from typing import Any

from torch import distributed

from fusion_eval.errors import FusionEvalError, TaskError

__all__ = ["all_ranks", "raise_together", "require_agreement"]


def all_ranks(value: Any) -> list[Any]:
    """Everyone's picklable `value`, by rank; a list of one outside distributed runs."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def raise_together(error: Exception | None) -> None:
    """Raise on all ranks if one has an error: a rank that went on alone would wait in a collective for ever.

    Raises:
        Exception: `error` itself outside distributed runs, else a TaskError that names the ranks.
    """
    messages = all_ranks(error and f"{type(error).__name__}: {error}")
    if error is not None and len(messages) == 1:
        raise error
    if any(messages):
        where = "; ".join(f"rank {rank}: {message}" for rank, message in enumerate(messages) if message)
        raise TaskError(where) from (None if isinstance(error, FusionEvalError) else error)


def require_agreement(value: Any, what: str) -> None:
    """Refuse to go on where the ranks are about to do different things.

    Raises:
        TaskError: if `value` is not the same everywhere.
    """
    values = all_ranks(value)
    if any(other != values[0] for other in values):
        raise TaskError(f"the processes disagree about {what}: {values}")
