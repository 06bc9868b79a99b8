"""Prompts that a causal language model completes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.data.template import compile_template
from fusion_eval.errors import ConfigError, DataError

__all__ = ["CompletionPrompt"]


@dataclass(frozen=True)
class CompletionPrompt:
    r"""A transform: from the columns of a sample to the tokens of a prompt, with room for what the model adds.

    Where prompt and room exceed what the model reads, the prompt loses tokens on its left, as in
    lm-evaluation-harness; the sample is then `truncated`. Batches are padded on the left.

    Args:
        tokenizer: A directory with a tokenizer's files, or an id on the hub: as a rule that of the base model.
        prompt: Jinja template of what is read: "Question: {{ question }}\nAnswer:".
        max_new_tokens: How many tokens are added at most.
        max_length: How many tokens the model attends to; None: what `config.json` beside the tokenizer says.

    Raises:
        ConfigError: the template is malformed, or a number is out of range.

    Example:
        >>> CompletionPrompt("gpt2", "Question: {{ question }}\nAnswer:").max_new_tokens
        256
    """

    tokenizer: str
    prompt: str
    max_new_tokens: int = 256
    max_length: int | None = None

    def __post_init__(self) -> None:
        compile_template(self.prompt)
        if self.max_new_tokens < 1:
            raise ConfigError(f"CompletionPrompt: max_new_tokens={self.max_new_tokens}; it should be at least 1")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenize a prompt.

        Returns:
            `input_ids`: int64 of shape `(t,)`; `truncated`: whether the prompt lost tokens.

        Raises:
            DataError: the template does not fit the row, the prompt is empty, or the room is all that the model reads.
        """
        tokens = self._encode(row)
        return {"input_ids": torch.tensor(tokens[-self._room :]), "truncated": len(tokens) > self._room}

    def length(self, row: Mapping[str, Any]) -> int:
        """How many tokens the model reads at first."""
        return min(len(self._encode(row)), self._room)

    def collate(self, items: Sequence[tuple[Mapping[str, Any], str]]) -> tuple[dict[str, Any], list[str]]:
        """Make a batch of `n` prompts.

        Returns:
            `input_ids` and `attention_mask`, `(n, t)`, padded on the left; `truncated`, `(n,)`; `tokenizer` and
            `max_new_tokens` as given; and the targets, `n` texts.
        """
        prompts, targets = zip(*items, strict=True)
        ids = [prompt["input_ids"] for prompt in prompts]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_side="left"),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True, padding_side="left"),
            "truncated": torch.tensor([prompt["truncated"] for prompt in prompts]),
            "tokenizer": self.tokenizer,
            "max_new_tokens": self.max_new_tokens,
        }
        return batch, [_text(target) for target in targets]

    def identity(self) -> str:
        """What this does, wherever the tokenizer's files lie."""
        return f"CompletionPrompt {(self.prompt, self.max_new_tokens)!r} by {self._tokenizer.identity()}"

    @cached_property
    def _tokenizer(self) -> CausalTokenizer:
        return CausalTokenizer(self.tokenizer, self.max_length)

    @cached_property
    def _room(self) -> int:
        room = self._tokenizer.limit - self.max_new_tokens
        if room < 1:
            raise DataError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt: the model attends to "
                f"{self._tokenizer.limit} tokens"
            )
        return room

    @cached_property
    def _encoded(self) -> dict[str, list[int]]:
        return {}

    def _encode(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens of a prompt, made once however often they are asked for."""
        text = compile_template(self.prompt)(row)
        if text not in self._encoded:
            self._encoded[text] = self._tokenizer.encode(text)
        if not self._encoded[text]:
            raise DataError("the prompt is empty")
        return self._encoded[text]


def _text(target: Any) -> str:
    return str(target.item() if isinstance(target, Tensor) else target)
