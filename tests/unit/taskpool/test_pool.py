from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Classification, Runner, TaskPool
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.errors import ConfigError, TaskError

METRICS = {"accuracy": partial(MulticlassAccuracy, average="micro")}


@dataclass(frozen=True)
class Points(DataSource):
    seed: int

    def load(self):
        generator = torch.Generator().manual_seed(self.seed)
        return TensorSamples(torch.randn(40, 3, generator=generator), torch.arange(40) % 3, "abc")


TASKS = {name: Classification(Points(seed), METRICS) for seed, name in enumerate(["red", "green", "blue"])}


def model():
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def test_the_report_is_a_dict_of_plain_floats_in_the_order_of_the_tasks():
    report = TaskPool(TASKS).evaluate(model())
    expected = {}
    for name, task in TASKS.items():
        samples = task.data.load()
        expected[name] = {"accuracy": accuracy_score(samples.targets, model()(samples.inputs).argmax(dim=1))}
    assert report == expected
    assert list(report) == list(TASKS)
    assert isinstance(report, dict)
    assert {type(value) for metrics in report.values() for value in metrics.values()} == {float}
    assert {name: result.count for name, result in report.results.items()} == dict.fromkeys(TASKS, 40)
    assert report.failures == {}


def test_nothing_is_loaded_before_the_pool_is_evaluated():
    class Untouchable(Points):
        def load(self):
            raise AssertionError

    pool = TaskPool({"a": Classification(Untouchable(0), METRICS)})
    assert pool.select(["a"]).tasks == pool.tasks


def test_a_selection_keeps_the_order_it_was_asked_for():
    assert list(TaskPool(TASKS).select(["blue", "red"]).tasks) == ["blue", "red"]
    assert list(TaskPool(TASKS).select(iter(["green"])).tasks) == ["green"]
    with pytest.raises(ConfigError, match=r"no task 'gren'; did you mean 'green'.*blue, green, red"):
        TaskPool(TASKS).select(["red", "gren"])
    with pytest.raises(ConfigError, match="at least one"):
        TaskPool(TASKS).select([])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "tasks: a pool needs at least one"),
        (list(TASKS.values()), "tasks: a pool needs at least one, as a mapping"),
        ({"a": Points(0)}, r"tasks.a: expected a task such as .*Classification, found .*Points\(seed=0\)"),
        ({"a": Classification}, "tasks.a: expected a task"),
    ],
)
def test_what_is_no_pool_is_refused(tasks, message):
    with pytest.raises(ConfigError, match=message):
        TaskPool(tasks)


def test_a_runner_may_be_given_or_not():
    given = TaskPool(TASKS).evaluate(model(), Runner(batch_size=7, limit=10))
    assert {result.count for result in given.results.values()} == {10}


def test_an_error_of_the_model_itself_is_recorded_with_its_traceback():
    class Broken(nn.Module):
        def forward(self, inputs):
            raise ZeroDivisionError("no such luck")

    report = TaskPool(TASKS).evaluate(Broken(), on_error="record")
    assert report == {}
    assert {(f.error, f.message) for f in report.failures.values()} == {
        ("TaskError", "the model failed on inputs (40, 3): ZeroDivisionError: no such luck")
    }
    assert "in forward" in report.failures["red"].traceback


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_on_result_is_told_of_a_failure_too(on_error):
    class Broken(nn.Module):
        def forward(self, inputs):
            raise ZeroDivisionError

    told = []
    raises = pytest.raises(TaskError, match=f"^task {next(iter(TASKS))!r}: the model failed")
    with raises if on_error == "raise" else nullcontext():
        TaskPool(TASKS).evaluate(Broken(), on_error=on_error, on_result=lambda *outcome: told.append(outcome))
    assert [name for name, _ in told] == list(TASKS)[: 1 if on_error == "raise" else None]
    assert {outcome.error for _, outcome in told} == {"TaskError"}
