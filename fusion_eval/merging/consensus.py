"""How several task vectors become one: their sum, or the mean of those that agree on a sign."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Literal

from torch import Tensor

from fusion_eval.errors import ConfigError

__all__ = ["Consensus", "agrees", "combine", "disjoint_mean", "require_consensus", "weigh", "weighted_sum"]

Consensus = Literal["sum", "ties"]
"""The sum of the task vectors, or their `disjoint_mean`."""


def combine(vectors: Tensor, consensus: Consensus, weights: Tensor | None = None) -> Tensor:
    """One task vector of several, which are overwritten: shape `(n, ...)` to `(...)`; weights of `expert_weights`."""
    return disjoint_mean(vectors, weights) if consensus == "ties" else weigh(vectors, weights).sum(dim=0)


def require_consensus(method: object, field: str = "consensus") -> None:
    """Refuse a field that is no `Consensus`.

    Raises:
        ConfigError: naming the method, the field and the value.
    """
    value = getattr(method, field)
    if value not in ("sum", "ties"):
        raise ConfigError(f'{type(method).__name__}: {field} must be "sum" or "ties", got {value!r}')


def weighted_sum(vectors: Iterable[Tensor], weights: Tensor | None) -> Tensor:
    """The same as `weigh(torch.stack(vectors), weights).sum(dim=0)`, one vector after the other."""
    factors = repeat(None) if weights is None else weights.tolist()
    weighted = (vector if factor is None else vector * factor for vector, factor in zip(vectors, factors, strict=False))
    first = next(weighted)
    second = next(weighted, None)
    if second is None:
        return first.clone()
    total = first + second
    for vector in weighted:
        total = total.add_(vector) if total.dtype == vector.dtype else total + vector
    return total


def weigh(vectors: Tensor, weights: Tensor | None) -> Tensor:
    """Each task vector times its weight: shapes `(n, ...)` and `(n,)` to `(n, ...)`; None: as they are."""
    return vectors if weights is None else vectors * _beside(vectors, weights)


def disjoint_mean(vectors: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the task vectors of the values that are not 0 and have the elected sign.

    Args:
        vectors: Task vectors, trimmed or not, shape `(n, ...)`. They are overwritten.
        weights: Shape `(n,)`: with what each votes for a sign and counts in the mean; None: all the same.

    Returns:
        Shape `(...)`; 0 where no value has the elected sign (the disjoint merge of arXiv 2306.01708).

    Example:
        >>> import torch
        >>> vectors = torch.tensor([[3.0, 1.0, 0.0], [1.0, -3.0, 0.0], [0.0, -1.0, 0.0]])
        >>> disjoint_mean(vectors.clone())
        tensor([ 2., -2.,  0.])
        >>> disjoint_mean(vectors, torch.tensor([3.0, 1.0, 1.0]))
        tensor([ 2.5000, -2.0000,  0.0000])
    """
    weighted = weigh(vectors, weights)
    elected = weighted.sum(dim=0).sign_()
    agreeing = weighted.mul_(elected).clamp_(min=0)  # their magnitudes; 0 for the others
    sum_of_them = agreeing.sum(dim=0).mul_(elected)
    total = weigh(agreeing.sign_(), weights).sum(dim=0)
    return sum_of_them.div_(total.add_(total.clone().eq_(0)))  # 0 / 1 for 0 / 0; floats are faster to add than bools


def agrees(vectors: Tensor) -> Tensor:
    """Which values have the elected sign, that of their sum: shape and dtype as given, 1 or 0.

    Where the two signs weigh exactly the same none is elected, and none agrees; a 0 never does. Multiply by it, rather
    than select, so that NaN stays, to be found in the result.
    """
    return vectors.sign().mul_(vectors.sum(dim=0).sign()).gt_(0)  # in place: 3 times as fast as to make bools


def _beside(vectors: Tensor, weights: Tensor) -> Tensor:
    return weights.to(vectors).view(-1, *(1,) * (vectors.ndim - 1))
