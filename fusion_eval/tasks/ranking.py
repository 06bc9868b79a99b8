"""Metrics of a ranking, each a mean over queries; their definitions are those of trec_eval."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["DiscountedGainAt", "RankingMetric", "RecallAt", "ReciprocalRankAt"]


class RankingMetric(Metric):
    """The mean over queries of some function of the gains at the first `k` ranks.

    Args:
        k: How many ranks count.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    kind: ClassVar[str]

    total: Tensor
    count: Tensor

    def __init__(self, k: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k: expected an integer >= 1, found {k!r}")
        self.k = k
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def column(self) -> str:
        """What its values are called among the columns of a sample."""
        return f"{self.kind}@{self.k}"

    @abstractmethod
    def values(self, gains: Tensor, all_gains: Tensor) -> Tensor:
        """The values of `n` queries, float64, shape `(n,)`; arguments as those of `update`."""

    def update(self, gains: Tensor, all_gains: Tensor) -> None:
        """Add a batch.

        Args:
            gains: Shape `(n, ranks)`: of the document at each rank, 0 for one that is not relevant.
            all_gains: Shape `(n, r)`: of all relevant documents, falling, filled up with 0.
        """
        self.total += self.values(gains, all_gains).sum()
        self.count += len(gains)

    def compute(self) -> Tensor:
        """The mean over all queries so far."""
        return self.total / self.count


class RecallAt(RankingMetric):
    """Share of a query's relevant documents that are among the first `k`.

    Example:
        >>> metric = RecallAt(k=2)
        >>> metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[2, 1]]))
        >>> float(metric.compute())
        0.5
    """

    kind = "recall"

    def values(self, gains: Tensor, all_gains: Tensor) -> Tensor:
        """Relevant documents found over relevant documents."""
        return (gains[:, : self.k] > 0).sum(dim=1).double() / (all_gains > 0).sum(dim=1)


class ReciprocalRankAt(RankingMetric):
    """One over the rank of the first relevant document, 0 if it is not among the first `k`.

    Example:
        >>> metric = ReciprocalRankAt(k=3)
        >>> metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[2, 1]]))
        >>> float(metric.compute())
        0.5
    """

    kind = "reciprocal_rank"

    def values(self, gains: Tensor, all_gains: Tensor) -> Tensor:
        """The largest of the reciprocal ranks."""
        relevant = gains[:, : self.k] > 0
        return (relevant / _ranks(relevant)).max(dim=1).values


class DiscountedGainAt(RankingMetric):
    """Normalised discounted cumulative gain (nDCG): gains, each divided by the binary logarithm of its rank plus one,
    over what the best ranking has (Järvelin and Kekäläinen, 2002, doi 10.1145/582415.582418).

    Example:
        >>> metric = DiscountedGainAt(k=2)
        >>> metric.update(torch.tensor([[0, 1]]), torch.tensor([[1]]))
        >>> round(float(metric.compute()), 4)  # 1 / log2(3)
        0.6309
    """

    kind = "ndcg"

    def values(self, gains: Tensor, all_gains: Tensor) -> Tensor:
        """Discounted gain of the ranking over that of the best one."""
        return _discounted(gains[:, : self.k]) / _discounted(all_gains[:, : self.k])


def _discounted(gains: Tensor) -> Tensor:
    return (gains / (_ranks(gains) + 1).log2()).sum(dim=1)


def _ranks(gains: Tensor) -> Tensor:
    return torch.arange(1, gains.shape[1] + 1, dtype=torch.float64, device=gains.device)
