from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import partial

import pytest
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.errors import ConfigError
from fusion_eval.models import LinearHead
from fusion_eval.tasks import Classification, CrossEntropy

DATA = Arrays("nowhere.npz")
ACCURACY = partial(MulticlassAccuracy, average="micro")


def test_nothing_is_read_when_a_task_is_made():
    assert Classification(DATA, {"accuracy": ACCURACY}, LinearHead("nowhere.safetensors")).data.inputs == "nowhere.npz"


def test_a_task_is_a_value():
    task = Classification(DATA, {"accuracy": ACCURACY})
    with pytest.raises(FrozenInstanceError):
        task.head = "other"


@pytest.mark.parametrize(
    ("data", "metrics", "message"),
    [
        ("digits.npz", {"accuracy": ACCURACY}, "data: expected a fusion_eval.data source, found 'digits.npz'"),
        (DATA, {}, "metrics: give at least one"),
        (DATA, None, "metrics: give at least one"),
        (DATA, [ACCURACY], "metrics: give at least one"),
        (DATA, {"top.5": ACCURACY}, r"metrics.top.5: a metric's name has no '.' and no '/'"),
        (DATA, {"a/b": ACCURACY}, "metrics.a/b: a metric's name"),
        (DATA, {"accuracy": MulticlassAccuracy(3)}, "metrics.accuracy: give a factory .* `_partial_: true`"),
        (DATA, {"accuracy": {"_target_": "x"}}, "metrics.accuracy: give a factory"),
    ],
)
def test_what_is_no_task_is_refused(data, metrics, message):
    with pytest.raises(ConfigError, match=message):
        Classification(data, metrics)


def test_the_first_metric_is_the_primary_one():
    assert Classification(DATA, {"loss": CrossEntropy, "accuracy": ACCURACY}).primary == "loss"


@pytest.mark.parametrize(("head", "key"), [(None, "mine"), ("mnist", "mnist"), (LinearHead("x.safetensors"), "mine")])
def test_a_model_pool_knows_a_task_by_its_named_head_or_its_own_name(head, key):
    assert Classification(DATA, {"accuracy": ACCURACY}, head).model_key("mine") == key


def test_settings_tell_tasks_apart_by_all_but_data_and_head():
    task = Classification(DATA, {"accuracy": ACCURACY, "loss": CrossEntropy}, num_classes=3)
    same = Classification(Arrays("other.npz"), {"accuracy": ACCURACY, "loss": CrossEntropy}, "head", num_classes=3)
    others = [
        Classification(DATA, {"accuracy": ACCURACY}, num_classes=3),
        Classification(DATA, {"accuracy": partial(ACCURACY, top_k=2), "loss": CrossEntropy}, num_classes=3),
        Classification(DATA, {"accuracy": ACCURACY, "loss": CrossEntropy}, num_classes=4),
        Classification(DATA, {"loss": CrossEntropy, "accuracy": ACCURACY}, num_classes=3),
    ]
    assert task.settings() == same.settings()
    assert all(task.settings() != other.settings() for other in others)


def six_classes():
    return MulticlassAccuracy(6)


class Factory:
    __hash__ = None

    def __call__(self, num_classes):
        return MulticlassAccuracy(num_classes)


@pytest.mark.parametrize(
    ("factory", "classes"),
    [
        (MulticlassAccuracy, 4),
        (partial(MulticlassAccuracy, average="micro"), 4),
        (partial(MulticlassAccuracy, num_classes=5), 4),  # the task knows better
        (partial(MulticlassAccuracy, 5), 5),
        (six_classes, 6),
        (Factory(), 4),
    ],
)
def test_a_factory_gets_what_it_takes(factory, classes):
    task = Classification(DATA, {"accuracy": factory})
    assert task.fresh_metrics(num_classes=4, other=1)["accuracy"].num_classes == classes
