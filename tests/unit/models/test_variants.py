"""A merge that is not the same for every task: the model becomes each task's variant when it is asked to."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.engine import Runner
from fusion_eval.errors import MergeError
from fusion_eval.merging import EmrMerging, TallMask, TaskArithmetic
from fusion_eval.models import ModelPool
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.taskpool import TaskPool
from fusion_eval.tasks import Classification


@pytest.fixture
def weights():
    return {name: nn.Linear(4, 3).state_dict() for name in ("base", "one", "two")}


@pytest.fixture
def pool(tmp_path, weights):
    for name, state_dict in weights.items():
        save_file(state_dict, tmp_path / f"{name}.safetensors")
    experts = {name: str(tmp_path / f"{name}.safetensors") for name in ("one", "two")}
    return ModelPool(partial(nn.Linear, 4, 3), str(tmp_path / "base.safetensors"), experts)


def assert_equal(model, expected):
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize("method", [EmrMerging(), TallMask(0.3)])
def test_the_model_becomes_each_variant_and_what_it_was(pool, weights, method):
    arguments = weights["base"], {name: weights[name] for name in ("one", "two")}
    model = pool.merge(method)
    assert_equal(model, method(*arguments))
    for task in ("one", "two", "one"):
        model.adapt(task)
        assert_equal(model, method.variant(task)(*arguments))
    model.adapt("a task of no expert")
    assert_equal(model, method(*arguments))


def test_a_model_that_moved_since_becomes_the_variant_all_the_same(pool, weights):
    model = pool.merge(EmrMerging())
    model.adapt("one")
    model.to(torch.float64).to(torch.float32)  # new memory, as on the way to a GPU
    model.adapt("two")
    assert_equal(model, EmrMerging().variant("two")(weights["base"], {name: weights[name] for name in ("one", "two")}))


def test_a_merge_that_is_the_same_for_all_tasks_stays(pool, weights):
    model = pool.merge(TaskArithmetic(0.5))
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.adapt("one")
    assert_equal(model, before)


def test_the_weights_are_read_once_while_the_task_stays(pool, tmp_path):
    model = pool.merge(EmrMerging())
    model.adapt("one")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    model.adapt("one")


def test_a_task_pool_asks_for_the_variant_of_each_task(pool, weights, tmp_path):
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((50, 4)).astype("float32")
    accuracy = partial(MulticlassAccuracy, average="micro")
    tasks = {}
    for name in ("one", "two"):
        expert = nn.functional.linear(torch.from_numpy(inputs), weights[name]["weight"], weights[name]["bias"])
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, targets=expert.argmax(dim=1).numpy())
        data = Arrays(str(tmp_path / f"{name}.npz"))
        tasks[name] = Classification(data, {"accuracy": accuracy}, num_classes=3)
    report = TaskPool(tasks).evaluate(pool.merge(EmrMerging()), Runner())
    expected = {}
    for name in tasks:
        merged = EmrMerging().variant(name)(weights["base"], {key: weights[key] for key in ("one", "two")})
        predicted = nn.functional.linear(torch.from_numpy(inputs), merged["weight"], merged["bias"]).argmax(dim=1)
        targets = np.load(tmp_path / f"{name}.npz")["targets"]
        expected[name] = {"accuracy": pytest.approx(float((predicted.numpy() == targets).mean()))}
    assert report == expected


def test_the_merges_of_all_tasks_are_saved_or_none(pool, weights, tmp_path):
    method = EmrMerging()
    pool.merge(method, save_to=str(tmp_path / "saved"))
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"one", "two"}
    saved = load_state_dict(tmp_path / "saved" / "two")
    expected = method.variant("two")(weights["base"], {name: weights[name] for name in ("one", "two")})
    assert all(torch.equal(saved[name], expected[name]) for name in expected)

    class Failing(EmrMerging):
        def variant(self, expert):
            if expert == "two":
                raise MergeError("no room for two")
            return super().variant(expert)

    with pytest.raises(MergeError, match="no room"):
        pool.merge(Failing(), save_to=str(tmp_path / "half"))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("safetensors")) == ["saved"]
