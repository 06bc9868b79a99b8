"""Metrics of causal language models, from what each sample contributes to them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fusion_eval.errors import ConfigError

__all__ = ["BitsPerByte", "ChoiceAccuracy", "GenerationMatch", "Perplexity"]

_PER = ("token", "byte", "word")
_BY = ("sum", "characters", "bytes")


class _NegativeLogLikelihood(Metric):
    """Sums the nats that texts cost, and their tokens, bytes and words."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    nats: Tensor
    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, counts: Tensor) -> None:
        """Add windows.

        Args:
            nats: Negative log-likelihoods, shape `(n,)`.
            counts: Tokens, bytes and words, shape `(n, 3)`.
        """
        self.nats += nats.sum(dtype=torch.float64)
        self.counts += counts.sum(dim=0)


class Perplexity(_NegativeLogLikelihood):
    """`exp(-log p(texts) / N)`, over all texts together.

    Args:
        per: What `N` counts: "token" (only models of one tokenizer can be compared), "byte" or "word".
        **kwargs: As `torchmetrics.Metric` takes them.

    Raises:
        ConfigError: `per` is none of these.

    Example:
        >>> perplexity = Perplexity(per="word")
        >>> perplexity.update(torch.tensor([math.log(8)]), torch.tensor([[5, 20, 3]]))
        >>> round(float(perplexity.compute()), 6)
        2.0
    """

    def __init__(self, per: str = "token", **kwargs: Any) -> None:
        if per not in _PER:
            raise ConfigError(f"Perplexity: per={per!r}; choose one of {', '.join(_PER)}")
        super().__init__(**kwargs)
        self.per = per

    def compute(self) -> Tensor:
        """The perplexity."""
        return (self.nats / self.counts[_PER.index(self.per)]).exp()


class BitsPerByte(_NegativeLogLikelihood):
    """`-log2 p(texts) / B`, with the bytes `B` of their UTF-8 (The Pile, arXiv 2101.00027, section 3.1).

    Example:
        >>> bits = BitsPerByte()
        >>> bits.update(torch.tensor([math.log(8)]), torch.tensor([[1, 6, 1]]))
        >>> round(float(bits.compute()), 6)
        0.5
    """

    def compute(self) -> Tensor:
        """The bits."""
        return self.nats / math.log(2) / self.counts[1]


class _Hits(Metric):
    """The share of samples that are right."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The share."""
        return self.right / self.total

    def _add(self, hits: Tensor) -> None:
        self.right += hits.sum()
        self.total += hits.numel()


class ChoiceAccuracy(_Hits):
    """The share of questions whose choice with the highest log-likelihood is the right one.

    Args:
        by: What a choice's log-likelihood is divided by before they are compared: "sum": nothing; "characters": the
            length of the choice's text (`acc_norm` of lm-evaluation-harness); "bytes": its length in UTF-8
            (`acc_bytes`).
        **kwargs: As `torchmetrics.Metric` takes them.

    Raises:
        ConfigError: `by` is none of these.

    Example:
        >>> accuracy = ChoiceAccuracy(by="characters")
        >>> accuracy.update(torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.tensor([1, 2]))
        >>> float(accuracy.compute())
        0.5
    """

    def __init__(self, by: str = "sum", **kwargs: Any) -> None:
        if by not in _BY:
            raise ConfigError(f"ChoiceAccuracy: by={by!r}; choose one of {', '.join(_BY)}")
        super().__init__(**kwargs)
        self.by = by

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add questions.

        Args:
            predictions: Shape `(n, 3)`: the choice that is best by each of the ways, in the order above.
            targets: Shape `(n,)`: the right one.
        """
        self._add(predictions[:, _BY.index(self.by)] == targets)


class GenerationMatch(_Hits):
    """The share of completions that say what they should.

    Example:
        >>> match = GenerationMatch()
        >>> match.update(torch.tensor([True, False]), torch.tensor([True, True]))
        >>> float(match.compute())
        0.5
    """

    def update(self, matches: Tensor, targets: Tensor) -> None:
        """Add completions.

        Args:
            matches: Shape `(n,)`, bool: whether each says it.
            targets: Shape `(n,)`: all true.
        """
        self._add(matches == targets)
