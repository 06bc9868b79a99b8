"""Text to tokens, as a transform of any data source."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from fusion_eval.data.inputs import ModelInputs
from fusion_eval.data.tokenizer import fallback_token, identify_tokenizer, load_tokenizer, model_limit
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["Tokenized", "pad_rows"]

_SIDES = ("right", "left")


@dataclass(frozen=True)
class Tokenized:
    """What a language model takes: token ids, and a mask that tells them from padding.

    A text longer than `max_length` is cut, and marked in the column `truncated` of the task's samples, which the report
    counts. Of two texts the longer one is cut, token by token, as transformers' "longest_first" does.

    Tokens are kept, so that a text is tokenized once however often it is asked for. A text without any token (an empty
    one, where the tokenizer adds no special tokens) stands as the one token bos, eos or pad, whichever there is.

    Args:
        tokenizer: A directory with a tokenizer's files; or `owner/name` on the hub, or `owner/name@revision`.
        template: What the model reads, with the names of columns in braces: "Premise: {premise} Hypothesis:
            {hypothesis}"; {} where the data source gives one text and no columns. None: one text as it is, two columns
            as text and pair in the tokenizer's own way of joining them.
        max_length: At most so many tokens, special ones included; None: as many as the tokenizer says that the model
            takes, and no limit where it says nothing.
        padding: The side on which shorter texts of a batch are filled up. "left" adds `position_ids`, as models with
            learnt positions (GPT-2) need them then; encoders take "right".
        truncation: The side that is cut from a text that is too long.
        special_tokens: Whether the tokenizer adds what it was made to add ([CLS], </s>, ...).

    Raises:
        ConfigError: an argument is out of range, or the template is malformed.
    """

    tokenizer: str
    template: str | None = None
    max_length: int | None = None
    padding: str = "right"
    truncation: str = "right"
    special_tokens: bool = True

    def __post_init__(self) -> None:
        for field in ("padding", "truncation"):
            if getattr(self, field) not in _SIDES:
                raise ConfigError(f"Tokenized: {field}={getattr(self, field)!r}; choose one of {', '.join(_SIDES)}")
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"Tokenized: max_length={self.max_length}; it should be at least 1 token")
        if self.template is not None:
            _check_template(self.template)

    def __call__(self, value: str | Mapping[str, str]) -> dict[str, Tensor]:
        """Tokenize one sample.

        Args:
            value: A text, or column names to texts.

        Returns:
            `input_ids`, `attention_mask` and what else the tokenizer makes (`token_type_ids`), int64 of shape `(t,)`;
            and `truncated`, a bool of shape `()`, of which `collate` makes a column.

        Raises:
            DataError: the tokenizer cannot be loaded, the value is no text, or lacks a column of the template.
        """
        rows, truncated = self._encode(value)
        return {**{name: row.long() for name, row in rows.items()}, "truncated": torch.tensor(truncated)}

    def length(self, value: str | Mapping[str, str]) -> int:
        """How many tokens the sample has."""
        return len(self._encode(value)[0]["input_ids"])

    def collate(self, items: Sequence[tuple[Mapping[str, Tensor], Any]]) -> tuple[ModelInputs, Any]:
        """Make a batch of `n` items, padded to the longest of them.

        Returns:
            The entries of the items with shape `(n, t)` and the column `truncated` with shape `(n,)`; and the targets.
            With padding on the left also `position_ids`, `(n, t)`: 0 for a text's first token.
        """
        inputs, targets = zip(*items, strict=True)
        pad = {"input_ids": fallback_token(self._tokenizer, "pad", "eos", "bos")}
        truncated = torch.stack([row["truncated"] for row in inputs])
        names = [name for name in inputs[0] if name != "truncated"]
        batch = {name: pad_rows([row[name] for row in inputs], pad.get(name, 0), self.padding) for name in names}
        if self.padding == "left":
            batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        return ModelInputs(batch, {"truncated": truncated}), default_collate(list(targets))

    def identity(self) -> str:
        """What this does, wherever the tokenizer's files lie."""
        settings = (self.template, self._limit, self.padding, self.truncation, self.special_tokens)
        return f"Tokenized {settings!r} by {identify_tokenizer(self.tokenizer)}"

    @property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.tokenizer, truncation=self.truncation)

    @cached_property
    def _limit(self) -> int | None:
        return self.max_length or model_limit(self._tokenizer)

    @cached_property
    def _encoded(self) -> dict[tuple[str, ...], tuple[dict[str, Tensor], bool]]:
        return {}

    def _encode(self, value: str | Mapping[str, str]) -> tuple[dict[str, Tensor], bool]:
        """Rows of tokens and their marks, int32 to be kept cheaply, and whether some are missing."""
        texts = self._texts(value)
        if texts not in self._encoded:
            rows = self._tokenize(texts)
            truncated = self._limit is not None and len(rows["input_ids"]) > self._limit
            if truncated:
                rows = self._tokenize(texts, truncation=True, max_length=self._limit)
            if not len(rows["input_ids"]):
                token = fallback_token(self._tokenizer, "bos", "eos", "pad")
                rows = {name: [token if name == "input_ids" else int(name == "attention_mask")] for name in rows}
            tensors = {name: torch.tensor(row, dtype=torch.int32) for name, row in rows.items()}
            self._encoded[texts] = tensors, truncated
        return self._encoded[texts]

    def _tokenize(self, texts: tuple[str, ...], **truncation: Any) -> dict[str, list[int]]:
        settings = {"add_special_tokens": self.special_tokens, "return_attention_mask": True, **truncation}
        try:
            return dict(self._tokenizer(*texts, verbose=False, **settings))  # verbose: it would advise to truncate
        except TypeError as error:
            raise DataError(f"{texts!r:.100} is no Unicode text: it has half a surrogate pair") from error

    def _texts(self, value: str | Mapping[str, str]) -> tuple[str, ...]:
        """The text, or text and pair, that go to the tokenizer."""
        columns = value if isinstance(value, Mapping) else {"": value}
        for name, text in columns.items():
            if not isinstance(text, str):
                where = f"column {name!r}" if name else "the input"
                raise DataError(f"{where} should be a text, found {text!r:.50} ({type(text).__name__})")
        if self.template is not None:
            try:
                return (self.template.format(columns[""]) if "" in columns else self.template.format(**columns),)
            except KeyError as error:
                raise DataError(f"no column {error} for the template{suggest(str(error.args[0]), columns)}") from error
            except IndexError as error:
                raise DataError(
                    f"the template has {{}}, but the columns have names: {', '.join(columns)}; name them in it"
                ) from error
        if len(columns) > 2:
            raise DataError(f"{len(columns)} columns of text ({', '.join(columns)}); give a template that joins them")
        return tuple(columns.values())


def pad_rows(rows: Sequence[Tensor], value: float, side: str = "right") -> Tensor:
    """Rows of shape `(t_i, ...)` to one tensor `(n, max t_i, ...)`, filled up with `value`.

    Example:
        >>> pad_rows([torch.tensor([1, 2]), torch.tensor([3])], 0, "left")
        tensor([[1, 2],
                [0, 3]])
    """
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)


def _check_template(template: str) -> None:
    """Refuse a template that `str.format` cannot fill with plain columns."""
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"Tokenized: template={template!r}: {error}; write {{{{ for a brace") from error
    names = [name for name, _, _ in fields]
    if not names or any(spec or how or not (name == "" or name.isidentifier()) for name, spec, how in fields):
        raise ConfigError(f"Tokenized: template={template!r}; it should name columns in braces, as in {{sentence}}")
    if "" in names and len(names) > 1:
        raise ConfigError(f"Tokenized: template={template!r}; {{}} stands for the only text, once")
