"""Questions with several answers, as a causal language model reads and scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.data.language_modelling import IGNORED
from fusion_eval.data.template import compile_expression, compile_template
from fusion_eval.errors import DataError

__all__ = ["ChoicePrompts"]

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens that are read, and tokens that are scored."""


@dataclass(frozen=True)
class ChoicePrompts:
    r"""A transform: from the columns of a question to the tokens of its context and of each of its choices.

    Tokenizing, white space, BOS, and the cut of what is too long are those of lm-evaluation-harness (see
    `CausalTokenizer`): where context and continuation exceed the model's `L` tokens (plus one, as the last token is not
    read), the context loses tokens on its left; the sample is then `truncated`.

    Args:
        tokenizer: A directory with a tokenizer's files, or an id on the hub: as a rule that of the base model.
        context: Jinja template of what is read before a choice: "Question: {{ question }}\nAnswer:".
        choices: Jinja expression for the list of choices: "choices.text", or "[option1, option2]".
        continuation: Jinja template of what is scored. Both templates know the columns and `choice`, so a context may
            hold the choice, and what follows may be common to all (WinoGrande, arXiv 1806.02847, "partial" scoring).
        labels: Jinja expression for the list of what the target calls the choices: "choices.label"; None: the target is
            the index of a choice.
        max_length: How many tokens the model attends to; None: what `config.json` beside the tokenizer says.

    Raises:
        ConfigError: a template is malformed.

    Example:
        >>> ChoicePrompts("gpt2", "Question: {{ question }}\nAnswer:", choices="choices.text").continuation
        ' {{ choice }}'
    """

    tokenizer: str
    context: str
    choices: str
    continuation: str = " {{ choice }}"
    labels: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        for template in (self.context, self.continuation):
            compile_template(template)
        for expression in (self.choices, self.labels or "[]"):
            compile_expression(expression)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenize a question of `c` choices.

        Returns:
            `pairs`: `c` times tokens read and tokens scored; `sizes`: int64 of shape `(c, 2)`, the characters and
            the bytes of each choice; `labels`: what the target may be; `truncated`: whether a context lost tokens.

        Raises:
            DataError: a template does not fit the row, there is no choice, or one is longer than the model reads.
        """
        choices = self._choices(row)
        pairs = [self._pair(row, choice) for choice in choices]
        kept = [self._cut(pair) for pair in pairs]
        labels = compile_expression(self.labels)(row) if self.labels else list(range(len(choices)))
        if len(labels) != len(choices):
            raise DataError(f"{len(choices)} choices, but {len(labels)} labels: {labels!r}")
        return {
            "pairs": [[list(read), list(scored)] for read, scored in kept],
            "sizes": torch.tensor([[len(choice), len(choice.encode())] for choice in choices]),
            "labels": [str(label) for label in labels],
            "truncated": kept != pairs,
        }

    def length(self, row: Mapping[str, Any]) -> int:
        """How many tokens the longest choice has with its context."""
        pairs = (self._cut(self._pair(row, choice)) for choice in self._choices(row))
        return max(len(read) + len(scored) for read, scored in pairs)

    def collate(self, items: Sequence[tuple[Mapping[str, Any], Any]]) -> tuple[dict[str, Tensor], Tensor]:
        """Make a batch of `n` questions with `p` choices in all, `u` different contexts, at most `c` choices each.

        A row that is scored is a context and what follows it. All but the last token of a context are in `contexts`
        `(u, t)`, padded on the left; its last token and all but the last of the continuation in `continuations`
        `(p, s)`, padded on the right: one behind the other they are the tokens that the model reads.

        Returns:
            `contexts` and `contexts_mask`; `context_of` `(p,)`: the row of a continuation's context; `continuations`,
            `continuations_mask`, and `labels`, the tokens that follow; `places` `(p, 2)`: question and choice;
            `sizes` `(n, c, 2)`, 0 where a question has fewer choices; `truncated` `(n,)`; and the targets, `(n,)`.

        Raises:
            DataError: a target names no choice.
        """
        questions, targets = [question for question, _ in items], [target for _, target in items]
        pairs = [pair for question in questions for pair in question["pairs"]]
        contexts = list(dict.fromkeys(tuple(read[:-1]) for read, _ in pairs))
        row_of = {context: row for row, context in enumerate(contexts)}
        continuations = [torch.tensor([read[-1], *scored[:-1]]) for read, scored in pairs]
        places = [(row, column) for row, question in enumerate(questions) for column in range(len(question["pairs"]))]
        ids, ones = _rows(contexts), _rows([(1,) * len(context) for context in contexts])
        batch = {
            "contexts": pad_sequence(ids, batch_first=True, padding_side="left"),
            "contexts_mask": pad_sequence(ones, batch_first=True, padding_side="left"),
            "context_of": torch.tensor([row_of[tuple(read[:-1])] for read, _ in pairs]),
            "continuations": pad_sequence(continuations, batch_first=True),
            "continuations_mask": pad_sequence([torch.ones_like(row) for row in continuations], batch_first=True),
            "labels": pad_sequence(_rows([scored for _, scored in pairs]), batch_first=True, padding_value=IGNORED),
            "places": torch.tensor(places),
            "sizes": pad_sequence([question["sizes"] for question in questions], batch_first=True),
            "truncated": torch.tensor([question["truncated"] for question in questions]),
        }
        named = [_index(target, question["labels"]) for target, question in zip(targets, questions, strict=True)]
        return batch, torch.tensor(named)

    def identity(self) -> str:
        """What this does, wherever the tokenizer's files lie."""
        settings = (self.context, self.choices, self.continuation, self.labels)
        return f"ChoicePrompts {settings!r} by {self._tokenizer.identity()}"

    @cached_property
    def _tokenizer(self) -> CausalTokenizer:
        return CausalTokenizer(self.tokenizer, self.max_length)

    @cached_property
    def _encoded(self) -> dict[tuple[str, str], Pair]:
        return {}

    def _choices(self, row: Mapping[str, Any]) -> list[str]:
        choices = compile_expression(self.choices)(row)
        if not isinstance(choices, (list, tuple)) or not choices or not all(isinstance(c, str) for c in choices):
            raise DataError(f"choices: {self.choices!r} should give a list of texts, found {choices!r:.80}")
        return list(choices)

    def _pair(self, row: Mapping[str, Any], choice: str) -> Pair:
        """The tokens of a choice, made once however often they are asked for."""
        known = {**row, "choice": choice}
        texts = compile_template(self.context)(known), compile_template(self.continuation)(known)
        if texts not in self._encoded:
            read, scored = self._tokenizer.encode_pair(*texts)
            self._encoded[texts] = tuple(read), tuple(scored)
        return self._encoded[texts]

    def _cut(self, pair: Pair) -> Pair:
        read, scored = pair
        room = self._tokenizer.limit + 1 - len(scored)
        if room < 1:
            raise DataError(f"a choice has {len(scored)} tokens, the model reads {self._tokenizer.limit}")
        return read[-room:], scored


def _rows(rows: Sequence[Sequence[int]]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.int64) for row in rows]


def _index(target: Any, labels: Sequence[str]) -> int:
    name = str(int(target) if isinstance(target, Tensor) else target)
    if name not in labels:
        raise DataError(f"target {name!r} is none of the choices: {', '.join(labels)}")
    return list(labels).index(name)
