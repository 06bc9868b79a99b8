"""How several task vectors become one: their sum, or the mean of those that agree on a sign."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fusion_eval.errors import ConfigError

__all__ = ["Consensus", "agrees", "combine", "disjoint_mean", "require_consensus"]

Consensus = Literal["sum", "ties"]
"""The sum of the task vectors, or their `disjoint_mean`."""


def combine(vectors: Tensor, consensus: Consensus) -> Tensor:
    """One task vector of several: shape `(n, ...)` to `(...)`."""
    return disjoint_mean(vectors) if consensus == "ties" else vectors.sum(dim=0)


def require_consensus(method: object, field: str = "consensus") -> None:
    """Refuse a field that is no `Consensus`.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if value not in ("sum", "ties"):
        raise ConfigError(f'{type(method).__name__}: {field} must be "sum" or "ties", got {value!r}')


def disjoint_mean(vectors: Tensor) -> Tensor:
    """Mean over the task vectors of the values that are not 0 and have the elected sign.

    Args:
        vectors: Task vectors, trimmed or not, shape `(n, ...)`.

    Returns:
        Shape `(...)`; 0 where no value has the elected sign (arXiv 2306.01708, algorithm 1).

    Example:
        >>> import torch
        >>> disjoint_mean(torch.tensor([[3.0, 1.0, 0.0], [1.0, -3.0, 0.0], [0.0, -1.0, 0.0]]))
        tensor([ 2., -2.,  0.])
    """
    agreeing = agrees(vectors)
    return (vectors * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)


def agrees(vectors: Tensor) -> Tensor:
    """Which values have the elected sign, that of their sum: shape `(n, ...)` as given, bool.

    Where the two signs weigh exactly the same none is elected, and none agrees; a 0 never does. Multiply by it, rather
    than select, so that NaN stays, to be found in the result.
    """
    return vectors.sign() * vectors.sum(dim=0).sign() > 0
