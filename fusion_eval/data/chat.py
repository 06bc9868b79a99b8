"""Conversations to tokens, in the words that a chat model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from fusion_eval.data.text import Tokenized
from fusion_eval.errors import ConfigError, DataError

__all__ = ["Chat"]


@dataclass(frozen=True)
class Chat(Tokenized):
    """A conversation in the chat template of the tokenizer, which writes who speaks, and special tokens, by itself.

    The columns are turns, the user's first, then the assistant's, and so on: a prompt and its answer. A column that
    holds a list of messages (`role` and `content`) stands for these.

    Args:
        tokenizer: See `Tokenized`; it has a chat template.
        template: None; the tokenizer's own is taken.
        max_length: See `Tokenized`.
        padding: See `Tokenized`.
        truncation: See `Tokenized`.
        special_tokens: Whether the tokenizer adds special tokens to those of the chat template.

    Raises:
        ConfigError: see `Tokenized`; or a `template` is given.

    Example:
        >>> Chat("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2").special_tokens
        False
    """

    special_tokens: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None:
            raise ConfigError(f"Chat: template={self.template!r}; a chat has the template of its tokenizer")

    def identity(self) -> str:
        """What this does, wherever the tokenizer's files lie."""
        return f"Chat: {super().identity()}"

    def _texts(self, value: Any) -> tuple[str, ...]:
        columns = value if isinstance(value, Mapping) else {"": value}
        messages = [message for turn in zip(cycle(("user", "assistant")), columns.items()) for message in _said(*turn)]
        try:
            return (str(self._tokenizer.apply_chat_template(messages, tokenize=False)),)
        except Exception as error:  # the template is Jinja and raises what it likes
            raise DataError(f"{self.tokenizer}: the chat template fails on {messages!r:.100}: {error}") from error


def _said(role: str, turn: tuple[str, Any]) -> list[dict[str, str]]:
    """The messages of one column."""
    name, said = turn
    if isinstance(said, str):
        return [{"role": role, "content": said}]
    if isinstance(said, list) and all(isinstance(one, Mapping) and {"role", "content"} <= set(one) for one in said):
        return [{"role": one["role"], "content": one["content"]} for one in said]
    raise DataError(f"column {name!r} should be a text or a list of messages with role and content, found {said!r:.50}")
