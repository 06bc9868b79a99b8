"""Several texts a sample, each tokenized in its own way: a sentence and another, an answer and a worse one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from fusion_eval.data.inputs import ModelInputs
from fusion_eval.data.text import Tokenized
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["TokenizedTexts"]


@dataclass(frozen=True)
class TokenizedTexts:
    """The texts of a sample by the names that a task knows them by, each the inputs of one call of the model.

    Args:
        texts: Name to the transform that tokenizes that text, a `Tokenized` or a `Chat`.
        columns: Name to the columns of the data that its transform is given, in this order; a name that is missing is
            given the column of its own name.

    Raises:
        ConfigError: there is no text, or `columns` names another.

    Example:
        >>> tokenized = Tokenized("distilbert-base-uncased", template="query: {question}")
        >>> list(TokenizedTexts({"first": tokenized}, {"first": ["question"]}).texts)
        ['first']
    """

    texts: Mapping[str, Tokenized]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("TokenizedTexts: texts names none")
        for name in self.columns:
            if name not in self.texts:
                raise ConfigError(f"TokenizedTexts: columns: no text {name!r}{suggest(name, self.texts)}")

    def __call__(self, value: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """Tokenize the texts of one sample.

        Args:
            value: Column names to texts.

        Raises:
            DataError: a column is missing, or see `Tokenized`.
        """
        return {name: tokenized(self._columns(name, value)) for name, tokenized in self.texts.items()}

    def length(self, value: Mapping[str, Any]) -> int:
        """How many tokens the longest of the texts has."""
        return max(tokenized.length(self._columns(name, value)) for name, tokenized in self.texts.items())

    def collate(
        self, items: Sequence[tuple[Mapping[str, Mapping[str, Tensor]], Any]]
    ) -> tuple[dict[str, ModelInputs], Any]:
        """Make a batch of `n` items: for each name the inputs of all its texts, padded; and the targets."""
        values, targets = zip(*items, strict=True)
        batch = {}
        for name, tokenized in self.texts.items():
            batch[name], _ = tokenized.collate([(value[name], 0) for value in values])
        return batch, default_collate(list(targets))

    def identity(self) -> str:
        """What this does, wherever the tokenizers' files lie."""
        return repr([(name, list(self._names(name)), tokenized.identity()) for name, tokenized in self.texts.items()])

    def _names(self, text: str) -> Sequence[str]:
        return self.columns.get(text, [text])

    def _columns(self, text: str, value: Mapping[str, Any]) -> dict[str, Any]:
        for name in self._names(text):
            if name not in value:
                raise DataError(f"text {text!r}: no column {name!r}{suggest(name, value)}")
        return {name: value[name] for name in self._names(text)}
