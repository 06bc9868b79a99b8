from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Classification, ModelPool, Runner, TaskPool, evaluate_references
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError
from fusion_eval.models import LinearHead
from fusion_eval.tasks import CalibrationError

METRICS = {"accuracy": partial(MulticlassAccuracy, average="micro"), "ece": CalibrationError}


@dataclass(frozen=True)
class Points(DataSource):
    seed: int

    def load(self):
        generator = torch.Generator().manual_seed(self.seed)
        return TensorSamples(torch.randn(60, 4, generator=generator), torch.arange(60) % 3, "abc")


class Backbone(nn.Linear):
    calls = 0

    def forward(self, inputs):
        type(self).calls += 1
        return super().forward(inputs)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A base, two experts and three heads on disk, with a store of the test's own."""
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())
    monkeypatch.setattr(Backbone, "calls", 0)
    torch.manual_seed(0)
    layers = {name: nn.Linear(4, 5) for name in ("base", "red", "green")}
    heads = {name: nn.Linear(5, 3) for name in ("red", "green", "blue")}
    for name, layer in [*layers.items(), *((f"{name}.head", head) for name, head in heads.items())]:
        save_file(layer.state_dict(), tmp_path / f"{name}.safetensors")
    models = ModelPool(
        architecture=lambda: Backbone(4, 5),
        base=str(tmp_path / "base.safetensors"),
        experts={name: str(tmp_path / f"{name}.safetensors") for name in ("red", "green")},
        heads={name: LinearHead(str(tmp_path / f"{name}.head.safetensors")) for name in heads},
    )
    return models, layers, heads


def accuracy(task, *layers):
    samples = task.data.load()
    return accuracy_score(samples.targets, nn.Sequential(*layers)(samples.inputs).argmax(dim=1))


def test_the_base_is_run_on_every_task_and_each_expert_on_its_own(zoo):
    models, layers, heads = zoo
    tasks = {name: Classification(Points(seed), METRICS) for seed, name in enumerate(["red", "green", "blue"])}
    references = evaluate_references(TaskPool(tasks), models)
    assert {name: result.score for name, result in references.base.items()} == {
        name: accuracy(task, layers["base"], heads[name]) for name, task in tasks.items()
    }
    assert {name: result.score for name, result in references.experts.items()} == {
        name: accuracy(tasks[name], layers[name], heads[name]) for name in ("red", "green")
    }


def test_a_task_that_names_a_head_has_the_expert_of_that_name(zoo):
    models, layers, heads = zoo
    task = Classification(Points(0), METRICS, head="green")
    references = evaluate_references(TaskPool({"mine": task}), models)
    assert references.experts["mine"].score == accuracy(task, layers["green"], heads["green"])


def test_only_some_tasks(zoo):
    tasks = {name: Classification(Points(0), METRICS) for name in ("red", "green")}
    references = evaluate_references(TaskPool(tasks), zoo[0], tasks=["green"])
    assert list(references.base) == list(references.experts) == ["green"]
    with pytest.raises(ConfigError, match="no task 'gren'"):
        evaluate_references(TaskPool(tasks), zoo[0], tasks=["gren"])


def test_references_are_run_once_and_without_a_bootstrap(zoo):
    pool = TaskPool({"red": Classification(Points(0), METRICS)})
    first = evaluate_references(pool, zoo[0], Runner(bootstrap=50))
    calls = Backbone.calls
    again = evaluate_references(pool, zoo[0], Runner(bootstrap=20))
    assert calls == Backbone.calls == 2
    assert again.base["red"] is first.base["red"]
    assert first.base["red"].standard_errors.keys() == {"accuracy"}


def test_a_missing_checkpoint_is_recorded_and_the_other_references_are_kept(zoo, tmp_path):
    (tmp_path / "red.safetensors").unlink()
    pool = TaskPool({name: Classification(Points(0), METRICS) for name in ("red", "green")})
    found = evaluate_references(pool, zoo[0])
    assert (set(found.base), set(found.experts), set(found.failures)) == (
        {"red", "green"},
        {"green"},
        {"expert on red"},
    )
    assert found.failures["expert on red"].error == "CheckpointError"
    assert "red.safetensors: no such file" in found.failures["expert on red"].message
