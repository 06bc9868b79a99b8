"""Calling causal language models, whatever arguments their architectures take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward

__all__ = ["causal_output", "log_likelihoods", "next_token_logits"]


def causal_output(model: nn.Module, past_mask: Tensor | None = None, **inputs: Any) -> Any:
    """The model's output for `input_ids` and `attention_mask`, both `(n, t)`.

    Positions are counted from each row's first token that is no padding, as models with learnt or rotary positions
    need it; a model that takes no `position_ids` (ALiBi, recurrent ones) gets none. Of other arguments (`use_cache`,
    `past_key_values`, `logits_to_keep`) it gets those that it takes.

    Args:
        model: The model under test.
        past_mask: Mask `(n, p)` of the tokens whose keys and values are in `past_key_values`.
        **inputs: Its arguments.

    Raises:
        TaskError: the model fails.
    """
    mask = inputs["attention_mask"]
    whole = mask if past_mask is None else torch.cat([past_mask, mask], dim=1)
    positions = (whole.cumsum(dim=1) - 1).clamp(min=0)[:, -mask.shape[1] :]
    backbone = getattr(model, "backbone", model)
    taken = inspect.signature(backbone.forward).parameters
    wanted = {**inputs, "attention_mask": whole, "position_ids": positions}
    return forward(model, {name: value for name, value in wanted.items() if name in taken})


def next_token_logits(output: Any, head: nn.Module | None, count: int) -> Tensor:
    """The logits behind each of the last `count` tokens.

    Returns:
        float32 of shape `(n, count, vocabulary)`.

    Raises:
        TaskError: the output holds no such logits, or there is a head.
    """
    if head is not None:
        raise TaskError("the model under test gives the logits of the next token itself; the task takes no head")
    logits = output.get("logits") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[1] < count:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise TaskError(f"expected logits of shape (samples, tokens, vocabulary) of a causal model, found {shape}")
    return logits[:, -count:].float()


def log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the log probabilities, in nats, of the labels of each row.

    Args:
        logits: Shape `(n, t, vocabulary)`.
        labels: Shape `(n, t)`: the token that follows; -100 is left out.

    Returns:
        float64 of shape `(n,)`.

    Example:
        >>> log_likelihoods(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 3]])) / torch.log(torch.tensor(4.0))
        tensor([-2.], dtype=torch.float64)
    """
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return -losses.view_as(labels).sum(dim=1, dtype=torch.float64)
