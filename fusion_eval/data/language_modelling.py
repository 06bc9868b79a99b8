"""Long texts, cut into the windows that a causal language model can read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.data.digest import digest_content
from fusion_eval.data.huggingface import HuggingFace
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.errors import ConfigError, DataError

__all__ = ["IGNORED", "TextWindows", "WindowSamples"]

IGNORED = -100
"""The label of a token that is read but not scored; what `torch.nn.functional.cross_entropy` leaves out."""


@dataclass(frozen=True)
class TextWindows(DataSource):
    r"""Texts cut into overlapping windows such that every token is scored exactly once.

    A text of tokens `x_1 ... x_n` gets the prefix token `x_0` (BOS, else EOS) in front. With `L = max_length` and
    `s = stride` the first window scores the first `L` tokens; each later one reads `L` tokens and scores the last `s`
    of those that follow them (the last window: as many as are left), so that a token behind the first window is
    predicted from at least `L - s + 1` tokens. `s = L`, the default, is the cheapest and what lm-evaluation-harness
    does (`loglikelihood_rolling`); `s = 1` gives every token the longest context, at `L` times the cost.

    A sample is a window, its group the text it is from. Bytes and words of a text are shared out among its windows by
    where their tokens lie in it, so sums over windows are those of the texts.

    Args:
        tokenizer: A directory with a tokenizer's files, or an id on the hub: as a rule that of the base model.
        path: What holds the texts, as `HuggingFace` takes it; lines of `test.txt` in a directory are rows too.
        name: The configuration, where the data set has several.
        split: As `HuggingFace` takes it.
        revision: Of the data set.
        column: The column of the texts.
        separator: What joins all rows to one text; None: each row is a text of its own. A data set whose rows are lines
            wants it.
        max_length: `L`; None: what the model's `config.json` beside the tokenizer says.
        stride: `s`; None: `max_length`.
        expected_size: How many rows `split` has, or split to number, as `HuggingFace` takes it.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> TextWindows("gpt2", "Salesforce/wikitext", "wikitext-2-raw-v1", separator="\n").column
        'text'
    """

    tokenizer: str
    path: str
    name: str | None = None
    split: str = "test"
    revision: str | None = None
    column: str = "text"
    separator: str | None = None
    max_length: int | None = None
    stride: int | None = None
    expected_size: int | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for field in ("max_length", "stride"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"TextWindows: {field}={value}; it should be at least 1 token")
        if isinstance(self.expected_size, int):  # bound to its split, so that it is not expected of another one later
            object.__setattr__(self, "expected_size", {self.split: self.expected_size})
        if self.stride is not None and self.max_length is not None and self.stride > self.max_length:
            raise ConfigError(
                f"TextWindows: stride={self.stride}; a window scores at most max_length={self.max_length}"
            )

    def load(self) -> WindowSamples:
        """Read and tokenize the texts.

        Raises:
            DataError: data or tokenizer cannot be had, there is no text, or the stride is longer than a window.
        """
        rows = HuggingFace(
            self.path,
            self.name,
            self.split,
            self.revision,
            input=self.column,
            target=self.column,
            target_type="text",
            transform=str,
            expected_size=self.expected_size,
        ).load()
        texts = [rows[index][0] for index in range(len(rows))]
        if self.separator is not None:
            texts = [self.separator.join(texts)]
        tokenizer = CausalTokenizer(self.tokenizer, self.max_length)
        stride = self.stride or tokenizer.limit
        if stride > tokenizer.limit:
            raise DataError(f"stride={stride}: a window has at most {tokenizer.limit} tokens to score")
        return WindowSamples(texts, tokenizer, stride)


class WindowSamples(Samples):
    """The windows of some texts.

    An item is `({"input_ids", "labels"}, counts)`: int64 of shape `(t,)`, where a label is the token that follows, or
    `IGNORED`; and int64 of shape `(3,)`: the numbers of tokens that are scored, of bytes (UTF-8) and of words. Words
    are what lies between runs of white space; a text that starts or ends with white space has an empty one there, as
    `re.split` counts.

    Args:
        texts: The texts.
        tokenizer: What tokenizes them.
        stride: How many tokens each window behind the first one scores.

    Raises:
        DataError: all texts are empty.
    """

    def __init__(self, texts: Sequence[str], tokenizer: CausalTokenizer, stride: int) -> None:
        self._tokens: list[np.ndarray] = []
        self._windows: list[tuple[int, int, int]] = []
        counts: list[np.ndarray] = []
        for text in texts:
            tokens, ends = tokenizer.spans(text)
            if not tokens:
                continue
            windows = list(_windows(len(tokens), tokenizer.limit, stride))
            self._windows += [(len(self._tokens), first, end) for first, end in windows]
            self._tokens.append(np.array([tokenizer.prefix, *tokens], dtype=np.int32))
            counts.append(_counts(text, ends, windows))
        self._counts = torch.from_numpy(np.concatenate(counts or [np.zeros((0, 3), dtype=np.int64)]))
        if not self._counts[:, 1].any():
            raise DataError("the texts are empty")
        self._limit = tokenizer.limit
        self.groups = np.array([text for text, _, _ in self._windows]) if len(self._tokens) > 1 else None

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        text, first, end = self._windows[index]
        start = max(0, end - self._limit)
        tokens = torch.from_numpy(self._tokens[text][start : end + 1].astype(np.int64))
        labels = tokens[1:].clone()
        labels[: first - start] = IGNORED
        return {"input_ids": tokens[:-1], "labels": labels}, self._counts[index]

    def collate(self, items: Sequence[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
        """A batch, padded on the right: `input_ids`, `attention_mask`, `labels` of shape `(n, t)`; counts `(n, 3)`."""
        inputs, counts = zip(*items, strict=True)
        ids = [row["input_ids"] for row in inputs]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence([row["labels"] for row in inputs], batch_first=True, padding_value=IGNORED),
        }
        return batch, torch.stack(counts)

    def lengths(self) -> np.ndarray:
        """How many tokens each window reads."""
        return np.array([min(self._limit, end) for _, _, end in self._windows])

    def fingerprint(self) -> str:
        """Digest of tokens, windows and counts."""
        return digest_content([self._tokens, np.array(self._windows), self._counts])


def _windows(n: int, length: int, stride: int) -> Iterator[tuple[int, int]]:
    """Which of the tokens `0 ... n - 1` each window scores: the first one, and the one behind the last."""
    first, end = 0, min(length, n)
    while first < n:
        yield first, end
        first, end = end, min(end + stride, n)


def _counts(text: str, ends: Sequence[int], windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Tokens, bytes and words of each window, int64 `(windows, 3)`; bytes and words sum to those of the text."""
    cuts = [0, *(max(ends[first:end]) for first, end in windows[:-1]), len(text)]
    cuts = list(np.maximum.accumulate(cuts))  # a window of special tokens alone ends where the one before it did
    gaps = np.array([gap.start() for gap in re.finditer(r"\s+", text)])
    words = np.diff(np.searchsorted(gaps, cuts))
    words[-1] += 1  # n gaps are between n + 1 words
    return np.array(
        [
            (end - first, len(text[start:stop].encode()), count)
            for (first, end), (start, stop), count in zip(windows, pairwise(cuts), words, strict=True)
        ]
    )
