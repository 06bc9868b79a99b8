"""Passes over parts of a task, of which the later ones take what the earlier ones found."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval.data import DataCache, Samples
from fusion_eval.data.source import DataSource
from fusion_eval.engine import Runner, SampleMemory
from fusion_eval.engine.store import ResultStore
from fusion_eval.tasks import Classification, CrossEntropy

METRICS = {
    "accuracy": partial(MulticlassAccuracy, average="micro"),
    "f1": MulticlassF1Score,
    "loss": CrossEntropy,
}


class Sequences(Samples):
    """Sequences of 1 to 9 numbers; the class is that of the sum."""

    groups = None
    class_names = ("low", "middle", "high")

    def __init__(self, count=90):
        rng = np.random.default_rng(0)
        self.items = [torch.from_numpy(rng.normal(size=rng.integers(1, 10)).astype("float32")) for _ in range(count)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        total = self.items[index].sum()
        return self.items[index], int(total > -1) + int(total > 1)

    def collate(self, items):
        inputs, targets = zip(*items, strict=True)
        return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.tensor(targets)

    def lengths(self):
        return np.array(list(map(len, self.items)))

    def fingerprint(self):
        return "sequences"


class SequenceData(DataSource):
    def load(self):
        return Sequences()


class Sums(nn.Module):
    """Logits of the sum; notes how many samples it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([-1.0, 0.2, 1.0]))
        self.seen = 0

    def forward(self, inputs):
        self.seen += len(inputs)
        return inputs.sum(dim=1, keepdim=True) * self.scale


@pytest.fixture(autouse=True)
def fresh_results(monkeypatch):
    """Nothing is known of the tests before."""
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())


@pytest.fixture
def task():
    return Classification(SequenceData(), METRICS, num_classes=3)


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_passes_of_growing_parts_run_each_sample_once(task, batch_size):
    runner, memory, model = Runner(batch_size=batch_size), SampleMemory(), Sums()
    order = np.random.default_rng(1).permutation(90)
    for count in (1, 5, 40, 89):
        part = runner.run("sums", task, model, indices=np.sort(order[:count]), memory=memory)
        assert part.count == count
        assert model.seen == count
    whole = runner.run("sums", task, model, memory=memory)
    assert model.seen == 90
    plain = Runner(batch_size=batch_size, seed=1).run("sums", task, Sums())
    assert whole.metrics == pytest.approx(plain.metrics, rel=1e-6)
    assert whole.metrics["accuracy"] == plain.metrics["accuracy"]
    assert whole.standard_errors["accuracy"] == plain.standard_errors["accuracy"]
    for name, column in plain.samples.items():
        assert np.allclose(whole.samples[name], column, rtol=1e-5, atol=1e-6), name


def test_where_all_is_known_a_sample_runs_all_the_same(task):
    runner, memory, model = Runner(), SampleMemory(), Sums()
    everything = np.arange(90)
    first = runner.run("sums", task, model, indices=everything, memory=memory)
    again = Runner(seed=1).run("sums", task, model, indices=everything, memory=memory)
    assert model.seen == 91
    assert again.metrics == pytest.approx(first.metrics, rel=1e-6)


def test_of_other_weights_or_another_task_nothing_is_taken(task):
    runner, memory, model = Runner(), SampleMemory(), Sums()
    half = np.arange(45)
    runner.run("sums", task, model, indices=half, memory=memory)
    with torch.no_grad():
        model.scale.mul_(-1)
    assert runner.run("sums", task, model, memory=memory).metrics["accuracy"] < 0.5
    assert model.seen == 45 + 90
    runner.run("other", task, model, indices=half, memory=memory)
    assert model.seen == 45 + 90 + 45


def test_parts_share_the_samples_that_are_prepared_for_all(task, tmp_path):
    runner, memory, model = Runner(cache=DataCache("disk", str(tmp_path))), SampleMemory(), Sums()
    for count in (10, 30, 90):
        runner.run("sums", task, model, indices=np.arange(count), memory=memory)
        assert len(list(tmp_path.glob("prepared/*/description.json"))) == 1
    assert model.seen == 90
