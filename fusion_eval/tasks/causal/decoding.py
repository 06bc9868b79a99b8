"""Greedy decoding of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.tasks.causal.model import causal_output, next_token_logits

__all__ = ["complete"]

_LOOK_BACK = 8
"""Tokens that are decoded in search of a stop text, beside as many as the longest of those has letters."""


def complete(
    model: nn.Module,
    head: nn.Module | None,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    tokenizer: CausalTokenizer,
    stop: Sequence[str],
    max_new_tokens: int,
) -> tuple[list[str], Tensor]:
    """Add the likeliest token until every row has ended: at EOS, behind a stop text, or with `max_new_tokens`.

    What a row gets does not depend on the others. Keys and values of what was read are kept; a model that gives none
    reads each row alone, as it may take no notice of a mask, and anew for each token.

    Args:
        model: The model under test.
        head: None.
        input_ids: Prompts, `(n, t)`, padded on the left.
        attention_mask: 1 where there is no padding.
        tokenizer: What decodes.
        stop: Texts that end a completion.
        max_new_tokens: Most tokens that are added.

    Returns:
        What was added, up to the first stop text, special tokens left out; how many tokens were added, `(n,)`.

    Raises:
        TaskError: the model fails, or gives no logits.
    """
    completions = _Completions(len(input_ids), tokenizer, stop)
    ids, mask, past = input_ids, attention_mask, None
    for _ in range(max_new_tokens):
        unread = ids.shape[1] if past is None else 1
        output = causal_output(
            model,
            past_mask=mask[:, :-unread],
            input_ids=ids[:, -unread:],
            attention_mask=mask[:, -unread:],
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        past = output.get("past_key_values") if isinstance(output, Mapping) else None
        if past is None and len(ids) > 1:
            settings = {"tokenizer": tokenizer, "stop": stop, "max_new_tokens": max_new_tokens}
            return _one_by_one(model, head, input_ids, attention_mask, **settings)
        newest = next_token_logits(output, head, 1)[:, 0].argmax(dim=-1)
        if completions.add(newest.tolist()):
            break
        ids = torch.cat([ids, newest[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    counts = torch.tensor([len(tokens) for tokens in completions.tokens], device=input_ids.device)
    return completions.texts(), counts


def _one_by_one(
    model: nn.Module, head: nn.Module | None, input_ids: Tensor, attention_mask: Tensor, **settings: Any
) -> tuple[list[str], Tensor]:
    texts, counts = [], []
    for row, mask in zip(input_ids, attention_mask, strict=True):
        prompt = row[mask.bool()][None]
        found, count = complete(model, head, prompt, torch.ones_like(prompt), **settings)
        texts += found
        counts.append(count)
    return texts, torch.cat(counts)


class _Completions:
    """What has been added to each of `n` rows."""

    def __init__(self, n: int, tokenizer: CausalTokenizer, stop: Sequence[str]) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self._unfinished = set(range(n))
        self._tokenizer = tokenizer
        self._stop = stop
        self._window = _LOOK_BACK + max(map(len, stop), default=0)

    def add(self, newest: Sequence[int]) -> bool:
        """Add a token to each row that has not ended; whether all have ended now."""
        for row in list(self._unfinished):
            self.tokens[row].append(newest[row])
            if newest[row] == self._tokenizer.eos or self._stops(self.tokens[row]):
                self._unfinished.remove(row)
        return not self._unfinished

    def texts(self) -> list[str]:
        """The completions, up to the first stop text."""
        return [self._before_stop(self._tokenizer.decode(tokens)) for tokens in self.tokens]

    def _stops(self, tokens: Sequence[int]) -> bool:
        if not self._stop:
            return False
        recent = self._tokenizer.decode(list(tokens[-self._window :]))
        return any(mark in recent for mark in self._stop)

    def _before_stop(self, text: str) -> str:
        for mark in self._stop:
            text = text.partition(mark)[0]
        return text
