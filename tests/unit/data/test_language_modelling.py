from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.data import TextWindows
from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.data.language_modelling import IGNORED, WindowSamples
from fusion_eval.errors import ConfigError, DataError

transformers = pytest.importorskip("transformers")
pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer that puts a BOS in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the cat sees the house"] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    fast.save_pretrained(place)
    return str(place)


TEXTS = st.lists(st.text(alphabet="the catsuo\n é漢", max_size=60), min_size=1, max_size=4).filter(any)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, length=st.integers(1, 9), part=st.floats(0, 1))
def test_every_token_is_scored_once_with_enough_context(tokenizer, texts, length, part):
    stride = max(1, round(part * length))
    one = CausalTokenizer(tokenizer, length)
    samples = WindowSamples(texts, one, stride)
    groups = np.zeros(len(samples), int) if samples.groups is None else samples.groups
    for number, text in enumerate(texts):
        tokens = one.encode(text)
        scored = []
        for index in np.flatnonzero(groups == number):
            inputs, counts = samples[int(index)]
            ids, labels = inputs["input_ids"], inputs["labels"]
            assert len(ids) <= length
            assert (ids[1:] == torch.where(labels[:-1] == IGNORED, ids[1:], labels[:-1])).all()
            kept = labels[labels != IGNORED].tolist()
            assert counts[0] == len(kept)
            if scored:  # the first token that is scored sees this many
                assert int((labels == IGNORED).sum()) + 1 >= length - stride + 1
            else:
                assert ids[0] == one.prefix
            scored += kept
        assert scored == tokens


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, length=st.integers(1, 9))
def test_bytes_and_words_sum_to_those_of_the_texts(tokenizer, texts, length):
    samples = WindowSamples(texts, CausalTokenizer(tokenizer, length), length)
    counts = sum(samples[index][1] for index in range(len(samples)))
    assert counts[1] == sum(len(text.encode()) for text in texts)
    assert counts[2] == sum(len(re.split(r"\s+", text)) for text in texts)


def test_a_batch_is_padded_on_the_right(tokenizer):
    samples = WindowSamples(["the cat sees", "cat"], CausalTokenizer(tokenizer, 50), 50)
    items = [samples[0], samples[1]]
    inputs, counts = samples.collate(items)
    for row, (item, numbers) in enumerate(items):
        n = len(item["input_ids"])
        assert inputs["attention_mask"][row].tolist() == [1] * n + [0] * (inputs["input_ids"].shape[1] - n)
        assert (inputs["input_ids"][row, :n] == item["input_ids"]).all()
        assert (inputs["labels"][row, n:] == IGNORED).all()
        assert (counts[row] == numbers).all()
    assert samples.lengths().tolist() == [len(item["input_ids"]) for item, _ in items]
    assert samples.groups.tolist() == [0, 1]


def test_lines_are_joined_where_a_separator_is_given(tokenizer, tmp_path):
    (tmp_path / "test.txt").write_text("the cat\n\nsees the house\n", encoding="utf-8")
    data = TextWindows(tokenizer, str(tmp_path), separator="\n", max_length=64)
    inputs, counts = data.load()[0]
    expected = CausalTokenizer(tokenizer, 64).encode("the cat\n\nsees the house")
    assert inputs["labels"].tolist() == expected
    assert counts.tolist() == [len(expected), 23, 5]
    assert data.load().groups is None
    assert len(replace(data, separator=None).load()) == 3  # an empty line is a text of one BOS


def test_the_fingerprint_is_one_of_what_is_read(tokenizer, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").write_text("the cat sees the house " * 4, encoding="utf-8")
    here = TextWindows(tokenizer, str(tmp_path / "here"), max_length=4)
    fingerprint = here.load().fingerprint()
    assert fingerprint == replace(here, path=str(tmp_path / "there")).load().fingerprint()
    assert fingerprint != replace(here, stride=2).load().fingerprint()
    assert fingerprint != replace(here, max_length=5).load().fingerprint()


def test_an_expected_size_is_bound_to_its_split(tokenizer, tmp_path):
    (tmp_path / "test.txt").write_text("the\ncat\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text("the\n", encoding="utf-8")
    data = TextWindows(tokenizer, str(tmp_path), max_length=4, expected_size=2)
    assert len(data.load()) == 2
    assert len(replace(data, split="train").load()) == 1
    with pytest.raises(DataError, match="has 2 samples, expected 3"):
        replace(data, expected_size=3).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length=0; it should be at least 1 token"),
        ({"stride": -1}, "stride=-1; it should be at least 1 token"),
        ({"stride": 9, "max_length": 8}, "stride=9; a window scores at most max_length=8"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TextWindows("tokenizer", "texts", **settings)


def test_no_text_and_too_long_a_stride_are_refused(tokenizer, tmp_path):
    (tmp_path / "test.txt").write_text("the\n", encoding="utf-8")
    transformers.AutoTokenizer.from_pretrained(tokenizer, model_max_length=8).save_pretrained(tmp_path / "limited")
    with pytest.raises(DataError, match="stride=9: a window has at most 8 tokens to score"):
        TextWindows(str(tmp_path / "limited"), str(tmp_path), stride=9).load()
    with pytest.raises(DataError, match="the texts are empty"):
        WindowSamples([], CausalTokenizer(tokenizer, 8), 8)
