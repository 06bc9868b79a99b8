"""Several texts a sample."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fusion_eval.data import Tokenized, TokenizedTexts
from fusion_eval.data.transform import identify_transform
from fusion_eval.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "query", "one", "two", "three", "four"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    return str(path)


def test_each_text_has_its_columns_and_its_own_way(tokenizer):
    transform = TokenizedTexts(
        {"first": Tokenized(tokenizer, template="query {a}"), "b": Tokenized(tokenizer, max_length=2)}, {"first": ["a"]}
    )
    rows = [{"a": "one", "b": "two three four", "c": 5}, {"a": "one two", "b": "three", "c": 6}]
    assert [transform.length(row) for row in rows] == [2, 3]
    inputs, targets = transform.collate([(transform(row), row["c"]) for row in rows])
    assert list(inputs) == ["first", "b"]
    assert inputs["first"]["input_ids"].tolist() == [[2, 3, 0], [2, 3, 4]]
    assert inputs["b"]["input_ids"].tolist() == [[4, 5], [5, 0]]
    assert inputs["b"]["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert inputs["b"].columns["truncated"].tolist() == [True, False]
    torch.testing.assert_close(targets, torch.tensor([5, 6]))


def test_identity_tells_settings_and_columns_apart(tokenizer):
    one, other = Tokenized(tokenizer), Tokenized(tokenizer, max_length=3)
    made = [
        TokenizedTexts({"a": one}),
        TokenizedTexts({"a": other}),
        TokenizedTexts({"b": one}),
        TokenizedTexts({"a": one}, {"a": ["b"]}),
    ]
    assert len({identify_transform(transform) for transform in made}) == 4
    assert identify_transform(TokenizedTexts({"a": one}, {"a": ["a"]})) == identify_transform(made[0])


def test_what_is_not_there_is_named(tokenizer):
    with pytest.raises(ConfigError, match=r"columns: no text 'firts'; did you mean 'first'\? Known: first"):
        TokenizedTexts({"first": Tokenized(tokenizer)}, {"firts": ["a"]})
    with pytest.raises(ConfigError, match=r"texts names none"):
        TokenizedTexts({})
    with pytest.raises(DataError, match=r"text 'first': no column 'first'; Known: a, b"):
        TokenizedTexts({"first": Tokenized(tokenizer)})({"a": "one", "b": "two"})
    with pytest.raises(DataError, match=r"column 'a' should be a text, found 3"):
        TokenizedTexts({"a": Tokenized(tokenizer)})({"a": 3})
