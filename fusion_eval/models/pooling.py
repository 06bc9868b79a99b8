"""From one vector a token, which a language model returns, to one vector a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.errors import ConfigError, TaskError, suggest

__all__ = ["POOLINGS", "Pooled", "PooledHead", "pool_tokens"]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, mask.int().argmax(dim=1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1))


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), positions]


POOLINGS = {"mean": _mean, "cls": _first, "last": _last}
"""How the tokens of a text become one vector, as `1_Pooling/config.json` of sentence-transformers names it
(`pooling_mode_mean_tokens`, `pooling_mode_cls_token`, `pooling_mode_lasttoken`)."""


def pool_tokens(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text, of tokens that are no padding alone, on whichever side the padding is.

    Args:
        hidden: Shape `(n, t, d)`, floating point.
        mask: Shape `(n, t)`, 1 for a token and 0 for padding; at least one 1 in each row.
        pooling: "mean" of the tokens (Sentence-BERT, arXiv 1908.10084, section 3), the first ("cls") or the last one.

    Returns:
        Shape `(n, d)`.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> [float(pool_tokens(hidden, torch.tensor([[1, 1, 0]]), pooling)) for pooling in ("mean", "cls", "last")]
        [2.0, 1.0, 3.0]
    """
    return POOLINGS[pooling](hidden, mask)


class _Head(Protocol):
    def load(self) -> nn.Module: ...


@dataclass(frozen=True)
class Pooled:
    """A head for the outputs of a language model: pools the tokens, and hands the result to another head if any.

    Args:
        pooling: "mean", "cls" or "last"; see `pool_tokens`.
        normalise: Whether vectors are divided by their length.
        head: What takes the pooled vectors `(n, d)`, such as a `LinearHead` or `ZeroShotHead`; None: they are the
            outputs, embeddings of texts.

    Raises:
        ConfigError: `pooling` is none of these.

    Example:
        >>> Pooled("mean").load()
        PooledHead(pooling=mean, normalise=True)
    """

    pooling: str = "mean"
    normalise: bool = True
    head: _Head | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"Pooled: pooling={self.pooling!r}{suggest(self.pooling, POOLINGS)}")

    def load(self) -> PooledHead:
        """Load the other head.

        Raises:
            CheckpointError: it cannot be had or read.
        """
        return PooledHead(self.pooling, self.normalise, None if self.head is None else self.head.load())


class PooledHead(nn.Module):
    """See `Pooled`."""

    takes_output = True
    """It is called with what the model returned and with what the model was given: the mask is in the latter."""

    def __init__(self, pooling: str, normalise: bool, head: nn.Module | None = None) -> None:
        super().__init__()
        self.pooling = pooling
        self.normalise = normalise
        self.head = head

    def forward(self, output: Any, inputs: Any) -> Tensor:
        """Embeddings of `n` texts, or what the other head makes of them.

        Args:
            output: What the model returned, with `last_hidden_state`, shape `(n, t, d)`.
            inputs: What the model was given, with `attention_mask`, shape `(n, t)`.

        Returns:
            Shape `(n, d)`, or what the other head returns.

        Raises:
            TaskError: either has no such entry.
        """
        hidden = _entry(output, "last_hidden_state", "the model returned")
        mask = _entry(inputs, "attention_mask", "the model was given")
        pooled = pool_tokens(hidden, mask, self.pooling)
        embeddings = functional.normalize(pooled, dim=-1) if self.normalise else pooled
        return embeddings if self.head is None else self.head(embeddings)

    def extra_repr(self) -> str:
        """What a print of the module shows."""
        return f"pooling={self.pooling}, normalise={self.normalise}"


def _entry(values: Any, name: str, what: str) -> Tensor:
    if not isinstance(values, Mapping) or values.get(name) is None:
        found = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise TaskError(f"pooling needs {name}, but {what} {found}")
    entry: Tensor = values[name]
    return entry
