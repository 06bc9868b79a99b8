from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2LMHeadModel,
    T5ForConditionalGeneration,
)

from fusion_eval import Runner, TaskPool
from fusion_eval.data import HuggingFace, Tokenized
from fusion_eval.data.inputs import ModelInputs
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.tasks import (
    ClassF1,
    CrossEntropy,
    LabelGeneration,
    LabelScoring,
    NumberGeneration,
    PearsonCorrelation,
)
from fusion_eval.tasks import text_to_text as module
from fusion_eval.tasks.text_to_text import generate

T5 = Path(__file__).parents[2] / "oracles" / "glue" / "t5"
ACCURACY = {"accuracy": partial(MulticlassAccuracy, average="micro")}
DATA = HuggingFace("no/such", transform=Tokenized(str(T5)))


@pytest.fixture(scope="module")
def model():
    return T5ForConditionalGeneration.from_pretrained(T5).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(T5)


def batch(texts, targets, side="right"):
    transform = Tokenized(str(T5), padding=side)
    inputs, targets = transform.collate(
        [(transform(text), target) for text, target in zip(texts, targets, strict=True)]
    )
    inputs.pop("position_ids", None)  # T5 has none
    return inputs, targets


def writing(monkeypatch, *texts):
    """Let the model write these texts."""
    monkeypatch.setattr(module, "generate", lambda *args: list(texts))


TEXTS = ["Is it good?", "Does the premise: 'a' imply 'b'?", "x", "Answere with 'yes' or 'no'. Answere with 'yes'."]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_written_as_if_it_were_alone(model, tokenizer, side):
    inputs, _ = batch(TEXTS, [0] * 4, side)
    written = generate(model, inputs, str(T5), 9)
    with torch.inference_mode():
        alone = [model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=9) for text in TEXTS]
    assert written == [tokenizer.decode(tokens[0], skip_special_tokens=True) for tokens in alone]
    assert len(set(written)) > 1


def test_what_is_written_is_greedy_whatever_the_generation_config_says(model):
    inputs, _ = batch(TEXTS, [0] * 4)
    expected = generate(model, inputs, str(T5), 9)
    other = T5ForConditionalGeneration.from_pretrained(T5).eval()
    other.generation_config.update(do_sample=True, num_beams=4, temperature=5.0)
    assert generate(MergedModel(other, {}), inputs, str(T5), 9) == expected


def test_a_written_text_is_right_if_it_is_the_word(monkeypatch):
    task = LabelGeneration(DATA, {**ACCURACY, "f1": ClassF1}, tokenizer=str(T5), words=["no", "yes"])
    writing(monkeypatch, "yes", "no", "Yes", "yes yes", "")
    inputs, targets = batch(["a"] * 5, [1, 0, 1, 1, 0])
    prediction = task.predict(nn.Identity(), None, (inputs, targets), None)
    assert prediction.columns["prediction"].tolist() == [1, 0, 2, 2, 2] == prediction.outputs.tolist()
    assert prediction.columns["text"] == ["yes", "no", "Yes", "yes yes", ""]
    assert prediction.columns["truncated"].tolist() == [False] * 5
    metrics = task.build_metrics(None)
    for metric in metrics.values():
        metric.update(prediction.outputs, prediction.targets)
    assert float(metrics["accuracy"].compute()) == pytest.approx(2 / 5)
    assert float(metrics["f1"].compute()) == pytest.approx(2 * 1 / (2 * 1 + 0 + 2))  # one hit, two misses


def test_the_means_of_samples_are_the_metric(model, tmp_path):
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(TEXTS * 3)]
    Dataset.from_list(rows).save_to_disk(tmp_path)
    source = HuggingFace(str(tmp_path), input="text", target="label", transform=Tokenized(str(T5)))
    common = {"tokenizer": str(T5), "words": ["no", "yes"]}
    pool = TaskPool(
        {
            "written": LabelGeneration(source, ACCURACY, **common),
            "weighed": LabelScoring(source, {**ACCURACY, "loss": CrossEntropy}, **common),
        }
    )
    report = pool.evaluate(model, Runner(batch_size=5))
    for task in ("written", "weighed"):
        samples = report.results[task].samples
        assert report[task]["accuracy"] == (samples["prediction"] == samples["target"]).mean()
        assert report.results[task].scores is not None
    assert report["weighed"]["loss"] == pytest.approx(report.results["weighed"].samples["loss"].mean(), abs=1e-6)


def test_words_are_weighed_by_the_likelihood_of_their_tokens_and_the_end(model, tokenizer):
    task = LabelScoring(DATA, ACCURACY, tokenizer=str(T5), words=["no", "quite yes", "yes"])
    inputs, targets = batch(TEXTS, [0, 1, 2, 0])
    with torch.inference_mode():
        logits = task.predict(model, None, (inputs, targets), None).outputs
        for row, text in enumerate(TEXTS):
            for column, word in enumerate(task.words):
                labels = tokenizer(word, return_tensors="pt").input_ids
                out = model(**tokenizer(text, return_tensors="pt"), labels=labels)
                expected = sum(out.logits[0, t].log_softmax(0)[token] for t, token in enumerate(labels[0]))
                torch.testing.assert_close(logits[row, column], expected, rtol=1e-5, atol=1e-5)


def test_other_encoder_decoders_are_weighed_too(tokenizer):
    torch.manual_seed(0)
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": len(tokenizer), "init_std": 0.5}
    bart = BartForConditionalGeneration(
        BartConfig(**size, **heads, pad_token_id=0, eos_token_id=1, decoder_start_token_id=1)
    )
    bart = bart.eval()
    task = LabelScoring(DATA, ACCURACY, tokenizer=str(T5), words=["no", "yes"])
    inputs, targets = batch(TEXTS[:2], [0, 1])
    with torch.inference_mode():
        logits = task.predict(bart, None, (inputs, targets), None).outputs
        labels = tokenizer("yes", return_tensors="pt").input_ids
        loss = bart(**tokenizer(TEXTS[0], return_tensors="pt"), labels=labels).loss
    torch.testing.assert_close(logits[0, 1], -loss * labels.shape[1], rtol=0, atol=1e-5)


def test_gradients_reach_the_model_through_the_likelihoods(model):
    task = LabelScoring(DATA, ACCURACY, tokenizer=str(T5), words=["no", "yes"])
    task.predict(model, None, batch(TEXTS, [0] * 4), None).outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    model.zero_grad(set_to_none=True)


def test_a_written_number_is_read_and_anything_else_is_0(monkeypatch):
    task = NumberGeneration(DATA, {"pearson": PearsonCorrelation}, tokenizer=str(T5))
    writing(monkeypatch, "3.8", "0.0", "five", "nan", "inf", "-1")
    inputs, targets = batch(["a"] * 6, [torch.tensor(value) for value in (4.0, 1.0, 5.0, 0.0, 0.5, 2.0)])
    columns = task.predict(nn.Identity(), None, (inputs, targets), None).columns
    assert columns["prediction"].tolist() == [3.8, 0.0, 0.0, 0.0, 0.0, -1.0]
    assert columns["is_number"].tolist() == [True, True, False, False, False, True]
    assert columns["error"].tolist() == pytest.approx([-0.2, -1, -5, 0, -0.5, -3])


def test_targets_are_rounded_as_they_are_written(monkeypatch):
    task = NumberGeneration(DATA, {"pearson": PearsonCorrelation}, tokenizer=str(T5), decimals=1)
    values = [2.25, 3.45, 3.8, 1.667, 0.05]
    writing(monkeypatch, *["0"] * 5)
    inputs, targets = batch(["a"] * 5, [torch.tensor(value) for value in values])
    columns = task.predict(nn.Identity(), None, (inputs, targets), None).columns
    written = [float(f"{float(torch.tensor(value)):.1f}") for value in values]
    assert columns["target"].tolist() == pytest.approx(written, abs=1e-6)


def test_vectors_are_no_numbers_to_write(monkeypatch):
    task = NumberGeneration(DATA, {"pearson": PearsonCorrelation}, tokenizer=str(T5))
    with pytest.raises(TaskError, match=r"numbers of shape \(n,\), found \(2, 3\)"):
        task.predict(nn.Identity(), None, (batch(["a", "b"], [0, 0])[0], torch.zeros(2, 3)), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ["yes"]}, r"words=\['yes'\]: give at least two"),
        ({"words": ["yes", "yes"]}, "two different ones"),
        ({"words": ["yes", " no"]}, "without white space"),
        ({"words": ["yes", ""]}, "give at least two"),
        ({"words": ["yes", "no"], "num_classes": 3}, "num_classes=3, but there are 2 words"),
        ({"words": ["yes", "no"], "max_new_tokens": 0}, "max_new_tokens=0; it should be at least 1"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LabelGeneration(DATA, ACCURACY, tokenizer=str(T5), **arguments)


def test_the_length_of_numbers_is_checked_too():
    with pytest.raises(ConfigError, match="max_new_tokens=-1"):
        NumberGeneration(DATA, ACCURACY, tokenizer=str(T5), max_new_tokens=-1)


@pytest.mark.parametrize("kind", [LabelGeneration, LabelScoring])
@pytest.mark.parametrize("wrong", [nn.Linear(1, 1), MergedModel(nn.Linear(1, 1), {})], ids=["bare", "merged"])
def test_a_model_that_cannot_write_is_refused(kind, wrong):
    task = kind(DATA, ACCURACY, tokenizer=str(T5), words=["no", "yes"])
    with pytest.raises(TaskError, match="Linear does not write text: the task needs an encoder-decoder"):
        task.predict(wrong, None, batch(["a"], [0]), None)


def test_a_decoder_alone_is_refused():
    decoder = GPT2LMHeadModel.from_pretrained(T5.parent / "gpt2" / "base")
    with pytest.raises(TaskError, match="GPT2LMHeadModel does not write text"):
        generate(decoder, batch(["a"], [0])[0], str(T5), 9)


def test_a_token_that_the_model_lacks_is_refused(model):
    ids = torch.tensor([[10**6]])
    with pytest.raises(TaskError, match=r"failed to generate from input_ids \(1, 1\)"):
        generate(model, ModelInputs({"input_ids": ids, "attention_mask": ids * 0 + 1}, {}), str(T5), 9)


def test_the_settings_know_the_tokenizer_by_its_content(tmp_path):
    shutil.copytree(T5, tmp_path / "moved")
    tasks = [
        LabelScoring(DATA, ACCURACY, tokenizer=str(path), words=["no", "yes"]) for path in (T5, tmp_path / "moved")
    ]
    assert tasks[0].settings() == tasks[1].settings()
    config = json.loads((tmp_path / "moved" / "tokenizer.json").read_text())
    config["model"]["vocab"][5][1] -= 1.0
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(config))
    other = LabelScoring(DATA, ACCURACY, tokenizer=str(tmp_path / "other"), words=["no", "yes"])
    assert other.settings() != tasks[0].settings()
    words = LabelScoring(DATA, ACCURACY, tokenizer=str(T5), words=["yes", "no"])
    assert words.settings() != tasks[0].settings()
    number = NumberGeneration(DATA, {"pearson": PearsonCorrelation}, tokenizer=str(T5))
    assert number.settings()["tokenizer"] == tasks[0].settings()["tokenizer"]
