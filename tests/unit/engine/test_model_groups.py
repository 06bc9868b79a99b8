"""Models that are evaluated in a group get the numbers that they get one by one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval import Classification, Runner, TaskPool
from fusion_eval.data import DataSource, Embedded, TensorSamples
from fusion_eval.engine import ahead, group, members
from fusion_eval.engine import kind as kind_module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.sample_memory import SampleRows
from fusion_eval.engine.stack import OutputBytes, Stack, of_model
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import LinearHead, MergedModel
from fusion_eval.tasks import CalibrationError, CrossEntropy
from fusion_eval.zoo import Encoder

CLASSES = 5
METRICS = {
    "accuracy": partial(MulticlassAccuracy, average="micro"),
    "loss": CrossEntropy,
    "f1": partial(MulticlassF1Score, average="macro"),
    "ece": partial(CalibrationError, n_bins=15),
}


@dataclass(frozen=True)
class Random(DataSource):
    """Images, or what else a model takes of this shape; `tokens`: integers below 50."""

    shape: tuple[int, ...] = (3, 8, 8)
    n: int = 75
    seed: int = 0
    tokens: bool = False

    def load(self):
        generator = torch.Generator().manual_seed(self.seed)
        size = (self.n, *self.shape)
        inputs = torch.randint(50, size, generator=generator) if self.tokens else torch.randn(size, generator=generator)
        return TensorSamples(inputs, torch.randint(CLASSES, (self.n,), generator=generator))


class MLP(nn.Sequential):
    def __init__(self, outputs=CLASSES):
        super().__init__(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, outputs))


class Normed(nn.Sequential):
    """BatchNorm, whose running statistics differ between models, and dropout."""

    def __init__(self):
        norm = nn.BatchNorm2d(4)
        super().__init__(nn.Conv2d(3, 4, 3), norm, nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))
        norm.running_mean.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.5)


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(192, CLASSES, bias=False), nn.Linear(192, CLASSES, bias=False)
        self.up.weight = self.down.weight

    def forward(self, pixels):
        return self.down(pixels.flatten(1)) - self.up(pixels.flatten(1).sin())


class Branching(MLP):
    """Does something else where a value of its own is positive: nothing that can be vectorised."""

    def forward(self, pixels):
        logits = super().forward(pixels)
        return logits if logits.sum() > 0 else 2 * logits


class Drawing(MLP):
    """Adds noise, also in evaluation."""

    def forward(self, pixels):
        logits = super().forward(pixels)
        return logits + 0.1 * torch.randn_like(logits)


class Secret:
    """Looks like any other of its kind, and is not."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return "Secret()"


class Secretive(MLP):
    """Its models differ in what nobody sees, so that a stack of their weights is not they."""

    def __init__(self):
        super().__init__()
        self.secret = Secret(float(torch.rand(())))

    def forward(self, pixels):
        return super().forward(pixels) * self.secret.value


class Named(nn.Module):
    """A model of transformers, whose output has fields that are no tensors."""

    def __init__(self, make):
        super().__init__()
        self.model = make()

    def forward(self, inputs):
        return self.model(inputs)


def tiny_vit():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=CLASSES)
    return Named(partial(transformers.ViTForImageClassification, config))


def tiny_bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, vocab_size=50, max_position_embeddings=16, num_labels=CLASSES)
    return Named(partial(transformers.BertForSequenceClassification, config))


def models(make, count=5):
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(make())
    return found


def pool_of(**sources):
    return TaskPool({name: Classification(data, METRICS, num_classes=CLASSES) for name, data in sources.items()})


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Nothing is known; a function that makes it so again."""

    def fresh():
        store, rows = ResultStore(), ahead.RowsAhead(10**9)
        for module in (runner_module, members):
            monkeypatch.setattr(module, "process_store", store)
            monkeypatch.setattr(module, "process_ahead", rows)
        monkeypatch.setattr(kind_module, "_choices", {})

    fresh()
    return fresh


@pytest.fixture
def always(monkeypatch):
    """A group is taken whenever it predicts the same, as the time it takes is no matter of a test."""
    monkeypatch.setattr(group, "_LAUNCHES", 0)
    monkeypatch.setattr(group, "_FASTER", float("inf"))


@pytest.fixture
def stacked(monkeypatch):
    """How many models were in each stack that stood its test, batch by batch."""
    seen, finish = [], group.GroupPass.finish

    def spy(self, rows):
        seen.append(len(self._members) + 1 if self._kept else 1)
        finish(self, rows)

    monkeypatch.setattr(group.GroupPass, "finish", spy)
    return seen


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        for name, result in one.results.items():
            expected = other.results[name]
            assert result.fingerprints == expected.fingerprints
            assert (result.count, result.primary) == (expected.count, expected.primary)
            assert result.metrics["accuracy"] == expected.metrics["accuracy"]
            assert result.metrics == pytest.approx(expected.metrics, abs=1e-6)
            assert result.standard_errors == pytest.approx(expected.standard_errors, abs=1e-6)
            assert np.array_equal(result.scores, expected.scores)
            assert list(result.samples) == list(expected.samples)
            for column, values in result.samples.items():
                assert values.dtype == expected.samples[column].dtype
                assert values == pytest.approx(expected.samples[column], abs=1e-5)


GROUPED = {
    "mlp": (MLP, {}),
    "normed": (Normed, {}),
    "tied": (Tied, {}),
    "vit": (tiny_vit, {}),
    "bert": (tiny_bert, {"shape": (7,), "tokens": True}),
}
ONE_BY_ONE = {"branching": Branching, "drawing": Drawing, "secretive": Secretive}


@pytest.mark.parametrize("kind", GROUPED)
def test_a_group_gets_the_numbers_of_its_models(kind, forget, always, stacked):
    make, data = GROUPED[kind]
    pool = pool_of(first=Random(**data), second=Random(**data, seed=1, n=50))
    ours = pool.evaluate_group(models(make), Runner(batch_size=10))
    assert stacked == [1, 5, 4]  # measured on the first task of the first model
    forget()
    assert_same(ours, pool.evaluate_group(models(make), Runner(batch_size=10, group="off")))
    assert len(stacked) == 3


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_what_a_stack_cannot_do_is_done_one_by_one(kind, forget, always, stacked):
    pool = pool_of(first=Random(), second=Random(seed=1))
    ours = pool.evaluate_group(models(ONE_BY_ONE[kind]), Runner(batch_size=10))
    assert stacked == [1, 1]
    forget()
    expected = pool.evaluate_group(models(ONE_BY_ONE[kind]), Runner(batch_size=10, group="off"))
    for one, other in zip(ours, expected, strict=True):
        assert one == other
        assert all(
            np.array_equal(values, other.results[name].samples[column])
            for name, result in one.results.items()
            for column, values in result.samples.items()
        )


def test_the_embedded_encoder_with_heads(forget, always, stacked):
    head = LinearHead("pkg://fusion_eval.zoo/optdigits.head.safetensors")
    pool = TaskPool({"optdigits": Classification(Embedded("optdigits"), METRICS)})

    def merges():
        return [MergedModel(encoder, {"optdigits": head.load()}) for encoder in models(Encoder, 3)]

    runner = Runner(batch_size=10, limit=60)
    pool.evaluate(merges()[0], runner, coming=merges()[1:])
    forget_results(forget)
    ours = pool.evaluate_group(merges(), runner)
    assert stacked == [1, 3]
    forget()
    assert_same(ours, pool.evaluate_group(merges(), Runner(batch_size=10, limit=60, group="off")))


def forget_results(forget):
    choices = kind_module._choices
    forget()
    kind_module._choices.update(choices)


def test_only_what_is_faster_is_done(monkeypatch, stacked):
    monkeypatch.setattr(group, "_LAUNCHES", 0)
    monkeypatch.setattr(group, "_FASTER", 0)
    pool_of(first=Random(), second=Random(seed=1), third=Random(seed=2)).evaluate_group(
        models(MLP), Runner(batch_size=10)
    )
    assert stacked == [1, 1]  # it is tried once, in vain


def test_models_for_which_arithmetic_counts_are_not_even_tried(monkeypatch):
    monkeypatch.setattr(group, "_LAUNCHES", float("inf"))
    monkeypatch.setattr(Stack, "__init__", None)
    pool_of(first=Random(), second=Random(seed=1)).evaluate_group(models(MLP), Runner(batch_size=10))


class Once(MLP):
    """Counts the samples that went through models of it, one by one."""

    seen: ClassVar[list[int]] = []

    def forward(self, pixels):
        self.seen.append(len(pixels))
        return super().forward(pixels)


def test_samples_of_a_group_go_through_its_models_once(always, forget):
    pool, runner = pool_of(first=Random(n=60)), Runner(batch_size=10)
    pool.evaluate_group(models(Once, 9), runner)
    forget_results(forget)
    Once.seen.clear()
    pool.evaluate_group(models(Once, 9), runner)
    assert Once.seen == [10] * (1 + 1 + 5) + [1] * 8  # one batch is compared; then the last sample of each


def test_a_group_is_as_large_as_memory_allows(always, stacked, monkeypatch):
    pool = pool_of(first=Random(), second=Random(seed=1))
    with OutputBytes() as outputs:
        MLP()(torch.zeros(1, 3, 8, 8))
    weights = sum(parameter.nbytes for parameter in MLP().parameters())
    monkeypatch.setattr(group, "_MEMORY", int(3.5 * (2 * weights + 30 * 10 * outputs.total)))
    pool.evaluate_group(models(MLP, 7), Runner(batch_size=10))
    assert max(stacked) >= 3
    monkeypatch.setattr(group, "_MEMORY", 2 * weights)
    assert group.Choice(10, outputs=1).room(MLP(), 16) == 1


@pytest.mark.parametrize(("setting", "largest"), [(2, 2), (3, 3), ("auto", 7)])
def test_a_group_is_as_large_as_was_asked_for(always, stacked, setting, largest):
    pool_of(first=Random(), second=Random(seed=1)).evaluate_group(models(MLP, 7), Runner(batch_size=10, group=setting))
    assert max(stacked) == largest


@pytest.mark.parametrize("setting", [1, 0, True, "on", 2.5, None])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(ConfigError, match=rf"group: expected an integer >= 2, found {setting!r}, auto or off"):
        Runner(group=setting)


def test_a_model_of_another_architecture_or_head_runs_alone(always, forget, stacked):
    pool = pool_of(first=Random(), second=Random(seed=1))
    mixed = [*models(MLP, 2), Normed().eval(), *models(Tied, 2)]
    ours = pool.evaluate_group(mixed, Runner(batch_size=10))
    assert max(stacked) == 2
    forget()
    assert_same(ours, [pool.evaluate(model, Runner(batch_size=10)) for model in mixed])


def test_modes_and_weights_of_the_models_stay(always):
    given = models(Normed)
    given[2].train()
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in given]
    pool_of(first=Random(), second=Random(seed=1)).evaluate_group(given, Runner(batch_size=10))
    assert [model.training for model in given] == [True] * 5
    for model, weights in zip(given, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_model_that_fails_does_not_hurt_the_others(always, stacked):
    given = models(MLP)
    nn.init.constant_(given[2][1].weight, float("nan"))
    pool, runner = pool_of(first=Random(), second=Random(seed=1)), Runner(batch_size=10)
    with pytest.raises(TaskError, match="NaN"):
        pool.evaluate_group(given, runner)
    reports = [
        pool.evaluate(model, runner, on_error="record", coming=given[turn + 1 :]) for turn, model in enumerate(given)
    ]
    assert [len(report.failures) for report in reports] == [0, 0, 2, 0, 0]


def test_what_the_store_knows_is_not_evaluated_again(always, forget, stacked, tmp_path):
    pool, runner = pool_of(first=Random(), second=Random(seed=1)), Runner(batch_size=10, store=str(tmp_path))
    first = pool.evaluate_group(models(MLP, 3), runner)
    forget()
    stacked.clear()
    assert_same(pool.evaluate_group(models(MLP, 6), runner)[:3], first)
    assert max(stacked) == 3  # the other three
    forget()
    stacked.clear()
    pool.evaluate_group(models(MLP, 6), runner)
    assert stacked == []


def test_one_sample_and_one_batch(always, forget):
    pool = pool_of(one=Random(n=1), few=Random(n=4), many=Random(n=12))
    ours = pool.evaluate_group(models(MLP, 8), Runner(batch_size=12))
    forget()
    theirs = pool.evaluate_group(models(MLP, 8), Runner(batch_size=12, group="off"))
    for one, other in zip(ours, theirs, strict=True):
        assert {name: pytest.approx(values, abs=1e-6) for name, values in other.items()} == dict(one)


def test_a_batch_that_does_not_fit_as_a_group_is_evaluated_one_by_one(always, forget, monkeypatch):
    pool, predict = pool_of(first=Random(), second=Random(seed=1)), Stack.predict
    calls = []

    def fails_later(self, head, data):
        calls.append(1)
        if len(calls) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, head, data)

    monkeypatch.setattr(Stack, "predict", fails_later)
    ours = pool.evaluate_group(models(MLP), Runner(batch_size=10))
    assert len(calls) == 7
    forget()
    assert_same(ours, pool.evaluate_group(models(MLP), Runner(batch_size=10, group="off")))


def test_a_stack_is_every_model_of_it():
    samples, given = Random().load(), [model.eval() for model in models(Normed, 3)]
    given[1][5].bias.data = given[2][5].bias.data = given[0][5].bias.data.clone()  # equal in all: not stacked
    task, data = pool_of(first=Random()).tasks["first"], (samples.inputs, samples.targets)
    with torch.inference_mode():
        found = Stack(task, given, samples).predict(None, data)
        for number, model in enumerate(given):
            torch.testing.assert_close(of_model(found, number).outputs, model(samples.inputs))
            assert torch.equal(of_model(found, number).columns["target"], samples.targets)


def test_rows_that_nobody_takes_make_room():
    rows = SampleRows(np.arange(4), {"loss": np.zeros(4)})
    kept = ahead.RowsAhead(limit=2 * rows.columns["loss"].nbytes)
    for key in "abc":
        kept.put(key, rows)
    assert [key in kept for key in "abc"] == [False, True, True]
    assert kept.take("b") is rows
    assert kept.take("b") is None
