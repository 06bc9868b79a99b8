"""What a causal language model reads: tokens of a text, or of a context and its continuation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusion_eval.data.tokenizer import identify_tokenizer, load_tokenizer, model_limit
from fusion_eval.errors import DataError

__all__ = ["CausalTokenizer"]

_LIMITS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Where the configurations of transformers say how many tokens a model attends to."""


@dataclass(frozen=True)
class CausalTokenizer:
    """A tokenizer with the conventions of lm-evaluation-harness 0.4 (`lm_eval.api.model.TemplateLM`, `HFLM`).

    Special tokens are added as the tokenizer adds them by itself (Llama's puts a BOS in front, GPT-2's nothing), unless
    the text starts with the prefix token already. A context and its continuation are tokenized together and cut where
    the tokens of the context alone would end; white space at the end of a context goes to the continuation, as most
    tokenizers join it to the next word. Where there is no context, the prefix token stands for it: BOS, else EOS.

    Args:
        path: A directory with a tokenizer's files, or an id on the hub.
        max_length: How many tokens the model attends to at most; None: what the `config.json` beside the tokenizer
            says, else the tokenizer.
        revision: Commit, tag or branch on the hub.
    """

    path: str
    max_length: int | None = None
    revision: str | None = None

    def encode(self, text: str) -> list[int]:
        """The tokens of a text.

        Raises:
            DataError: the tokenizer cannot be loaded.
        """
        special = {"add_special_tokens": False} if text.startswith(self._prefix_text) else {}
        return list(self._tokenizer.encode(text, verbose=False, **special))

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens that are read, and those that are scored; neither is empty.

        Raises:
            DataError: the tokenizer cannot be loaded, or leaves nothing of the continuation.
        """
        kept = context.rstrip()
        if kept:
            whole = self.encode(context + continuation)
            read = self.encode(kept)
            scored = whole[len(read) :]
        elif not context:
            read = [self.prefix]
            scored = list(self._tokenizer.encode(continuation, add_special_tokens=False, verbose=False))
            if scored[:1] == read:
                scored = scored[1:]
        else:
            raise DataError(f"the context {context!r} is nothing but white space; leave it empty")
        if not scored:
            raise DataError(f"the continuation {continuation!r} has no tokens of its own behind {context[-40:]!r}")
        return read, scored

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def spans(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text, and where in it each of them ends, in characters; 0 for special tokens.

        Raises:
            DataError: the tokenizer cannot be loaded, or is not a fast one, which alone knows.
        """
        if not self._tokenizer.is_fast:
            raise DataError(f"{self.path}: windows need a fast tokenizer (one with a tokenizer.json)")
        special = {"add_special_tokens": False} if text.startswith(self._prefix_text) else {}
        encoded = self._tokenizer(text, return_offsets_mapping=True, verbose=False, **special)
        return list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]

    @cached_property
    def prefix(self) -> int:
        """The token that stands in front of a text without context.

        Raises:
            DataError: the tokenizer has neither BOS nor EOS.
        """
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise DataError(f"{self.path}: the tokenizer has neither a bos_token nor an eos_token to start a text with")

    @property
    def eos(self) -> int | None:
        """The token that ends a text, if there is one."""
        return None if self._tokenizer.eos_token_id is None else int(self._tokenizer.eos_token_id)

    @cached_property
    def limit(self) -> int:
        """How many tokens the model attends to.

        Raises:
            DataError: nobody says.
        """
        limit = self.max_length or self._configured_limit or model_limit(self._tokenizer)
        if limit is None:
            raise DataError(f"{self.path}: no context length in config.json or the tokenizer; set max_length")
        return limit

    def identity(self) -> str:
        """What this does, wherever the tokenizer's files lie."""
        return f"CausalTokenizer {self.limit} {identify_tokenizer(self.path, self.revision)}"

    @property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.path, self.revision)

    @cached_property
    def _prefix_text(self) -> str:
        return str(self._tokenizer.decode(self.prefix))

    @property
    def _configured_limit(self) -> int | None:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.path, revision=self.revision)
        except (OSError, ValueError):  # a tokenizer alone
            return None
        values = (getattr(getattr(config, "text_config", None) or config, name, None) for name in _LIMITS)
        return next((int(value) for value in values if value is not None), None)
