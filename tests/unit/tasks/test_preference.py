"""Reward models: scores against the model's own forward, metrics against the definitions in NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fusion_eval.data import HuggingFace, Tokenized, TokenizedTexts
from fusion_eval.engine import Runner
from fusion_eval.errors import TaskError
from fusion_eval.tasks import Preference, PreferenceAccuracy, PreferenceLoss, PreferenceMargin

PROMPTS = ["how are you", "what is this", "why", "who goes there then my friend", "how"] * 3
GOOD = ["well", "a tea pot", "because it is", "me", "so"] * 3
BAD = ["this is a tea pot", "no", "who", "go there friend", "so"] * 3
METRICS = {"accuracy": PreferenceAccuracy, "margin": PreferenceMargin, "loss": PreferenceLoss}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = sorted({word for text in PROMPTS + GOOD + BAD for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("data")
    subsets = [f"subset {index % 2}" for index in range(len(PROMPTS))]
    Dataset.from_dict({"prompt": PROMPTS, "chosen": GOOD, "rejected": BAD, "subset": subsets}).save_to_disk(path)
    pair = Tokenized(tokenizer)
    transform = TokenizedTexts(
        {"chosen": pair, "rejected": pair}, {"chosen": ["prompt", "chosen"], "rejected": ["prompt", "rejected"]}
    )
    columns = ["prompt", "chosen", "rejected"]
    return HuggingFace(str(path), input=columns, target="subset", target_type="text", transform=transform)


def reward_model(labels=1):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


@torch.no_grad()
def scores(model, tokenizer, answers):
    """One pair of texts at a time, by transformers alone."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    pairs = zip(PROMPTS, answers, strict=True)
    return np.array([float(model(**tokenizer(*pair, return_tensors="pt")).logits) for pair in pairs])


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_those_of_the_model_alone(data, tokenizer, batch_size):
    model = reward_model()
    result = Runner(batch_size=batch_size).run("rewards", Preference(data, METRICS), model)
    chosen, rejected = scores(model, tokenizer, GOOD), scores(model, tokenizer, BAD)
    np.testing.assert_allclose(result.samples["chosen"], chosen, atol=1e-5)
    np.testing.assert_allclose(result.samples["rejected"], rejected, atol=1e-5)
    margin = result.samples["margin"]
    assert (margin == 0).sum() == 3  # chosen and rejected are one text
    points = np.where(margin == 0, 0.5, margin > 0)
    assert result.metrics["accuracy"] == pytest.approx(points.mean())
    assert result.standard_errors["accuracy"] == pytest.approx(points.std(ddof=1) / np.sqrt(15))
    assert result.metrics["margin"] == pytest.approx((chosen - rejected).mean(), abs=1e-5)
    assert result.metrics["loss"] == pytest.approx(np.log1p(np.exp(rejected - chosen)).mean(), abs=1e-5)
    assert result.primary == "accuracy"
    assert list(result.samples["target"][:3]) == ["subset 0", "subset 1", "subset 0"]


def test_a_tie_counts_what_the_metric_says(data):
    model = reward_model()
    torch.nn.init.zeros_(model.classifier.weight)
    metrics = {
        name: partial(PreferenceAccuracy, tie=tie) for name, tie in {"wrong": 0, "right": 1, "half": 0.5}.items()
    }
    result = Runner().run("rewards", Preference(data, metrics), model)
    assert result.metrics == {"wrong": 0, "right": 1, "half": 0.5}


@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(-3, 3)))
def test_metrics_are_their_definitions_in_any_batches(pairs):
    margins = pairs[:, 0].astype(float) - pairs[:, 1]
    expected = {
        PreferenceAccuracy(): np.mean((np.sign(margins) + 1) / 2),
        PreferenceAccuracy(tie=0): np.mean(margins > 0),
        PreferenceMargin(): margins.mean(),
        PreferenceLoss(): -np.log(1 / (1 + np.exp(-margins))).mean(),
    }
    for metric, value in expected.items():
        for part in np.array_split(pairs, 3):
            metric.update(torch.from_numpy(part), torch.zeros(len(part)))
        assert float(metric.compute()) == pytest.approx(value, abs=1e-6)


def test_more_than_one_score_is_refused(data):
    with pytest.raises(TaskError, match=r"one score a text, shape \(samples, 1\); found \(15, 2\).*num_labels=1"):
        Runner().run("rewards", Preference(data, METRICS), reward_model(labels=2))


def test_inputs_that_are_no_pairs_are_refused(data, tokenizer):
    plain = HuggingFace(data.path, input="chosen", target="subset", target_type="text", transform=Tokenized(tokenizer))
    with pytest.raises(TaskError, match=r"should be the texts chosen and rejected, found .*input_ids.*TokenizedTexts"):
        Runner().run("rewards", Preference(plain, METRICS), reward_model())


def test_cut_texts_are_counted(data, tokenizer):
    short = Tokenized(tokenizer, max_length=8)
    transform = TokenizedTexts({"chosen": short, "rejected": short}, dict(data.transform.columns))
    cut = HuggingFace(data.path, input=data.input, target="subset", target_type="text", transform=transform)
    result = Runner().run("rewards", Preference(cut, METRICS), reward_model())
    lengths = [
        max(len(f"{prompt} {answer}".split()) for answer in answers) + 3
        for prompt, *answers in zip(PROMPTS, GOOD, BAD, strict=True)
    ]
    np.testing.assert_array_equal(result.samples["truncated"], np.array(lengths) > 8)


def test_a_bad_tie_is_refused():
    with pytest.raises(ValueError, match=r"tie: expected a number in \[0, 1\], found 2"):
        PreferenceAccuracy(tie=2)
