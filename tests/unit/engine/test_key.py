"""What a result on disk is found by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Classification, MergedModel
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.engine.fingerprint import fingerprint_config
from fusion_eval.engine.key import dependencies
from fusion_eval.engine.subject import Subject
from fusion_eval.tasks import CrossEntropy

FINGERPRINTS = {"weights": "a", "head": "b", "data": "c"}
SETTINGS = {"precision": "32-true", "seed": 0, "bootstrap": 100}


@dataclass(frozen=True)
class Points(DataSource):
    path: str = "points.npz"
    transform: Any = None

    def load(self):
        return TensorSamples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), ["no", "yes"])


def accuracy(num_classes):
    return MulticlassAccuracy(num_classes, average="micro")


def key(model=None, head=None, data=Points(), metrics=None, indices=range(4), settings=SETTINGS, **fingerprints):
    task = Classification(data, metrics or {"loss": CrossEntropy})
    model = nn.Linear(2, 2) if model is None else model
    found = dependencies(
        FINGERPRINTS | fingerprints,
        task,
        Subject(model, head),
        data.load(),
        np.array(indices, dtype=np.int64),
        settings,
    )
    return found and fingerprint_config(json.loads(json.dumps(found)))


def test_equal_content_has_equal_keys_whatever_path_it_came_from():
    assert key() == key(data=Points("elsewhere.npz")) == key(nn.Linear(2, 2).eval())
    assert len(key()) == 32


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "z"},
        {"head": nn.Linear(2, 2)},
        {"indices": range(3)},
        {"settings": SETTINGS | {"precision": "bf16-true"}},
        {"settings": SETTINGS | {"seed": 1}},
        {"metrics": {"error": CrossEntropy}},
        {"metrics": {"loss": CrossEntropy, "accuracy": partial(MulticlassAccuracy, average="micro")}},
        {"metrics": {"loss": accuracy}},
        {"model": nn.Linear(2, 3)},
        {"model": nn.Sequential(nn.Linear(2, 2))},
    ],
)
def test_whatever_decides_the_numbers_decides_the_key(changed):
    assert key(**changed) not in (key(), None)


def test_the_precision_of_matrix_products_decides_the_key():
    before, precision = key(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert key() != before
    finally:
        torch.set_float32_matmul_precision(precision)


def test_the_heads_of_other_tasks_do_not_decide_it():
    backbone = nn.Linear(2, 2)
    alone, together = MergedModel(backbone, {}), MergedModel(backbone, {"other": nn.Linear(2, 5)})
    assert key(alone) == key(together) == key(backbone)


def test_what_cannot_be_described_to_another_process_has_no_key():
    class Local(nn.Linear):
        pass

    assert key(metrics={"loss": lambda num_classes: CrossEntropy()}) is None
    assert key(Local(2, 2)) is None
    assert key(head=Local(2, 2)) is None
    assert key(data=Points(transform=lambda inputs: inputs)) is None
    assert key(data=Points(transform=partial(lambda inputs, k: inputs, k=1))) is None
