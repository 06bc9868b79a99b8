from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import Accuracy
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval.data import Arrays, TensorSamples
from fusion_eval.errors import TaskError
from fusion_eval.tasks import Classification, CrossEntropy, TopKAccuracy

CLASSES = ("a", "b", "c", "d")
SAMPLES = TensorSamples(torch.randn(50, 6, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 4, CLASSES)
ACCURACY = partial(MulticlassAccuracy, average="micro")


def task(metrics=None, **fields):
    return Classification(Arrays("unused.npz"), metrics or {"accuracy": ACCURACY}, **fields)


def linear(outputs=4):
    torch.manual_seed(0)
    return nn.Linear(6, outputs)


def test_the_columns_of_a_sample_are_what_plain_torch_says():
    model, batch = linear(), (SAMPLES.inputs, SAMPLES.targets)
    columns = task().predict(model, None, batch, SAMPLES).columns
    logits = model(SAMPLES.inputs)
    probabilities = logits.softmax(dim=1)
    order = logits.argsort(dim=1, descending=True)
    assert torch.equal(columns["target"], SAMPLES.targets)
    assert torch.equal(columns["prediction"], logits.argmax(dim=1))
    assert torch.allclose(columns["loss"], functional.nll_loss(probabilities.log(), SAMPLES.targets, reduction="none"))
    assert torch.allclose(columns["confidence"], probabilities.max(dim=1).values)
    assert torch.equal(columns["rank"], (order == SAMPLES.targets[:, None]).nonzero()[:, 1])


def test_half_precision_logits_are_scored_in_float32():
    model = linear().bfloat16()
    prediction = task().predict(model, None, (SAMPLES.inputs.bfloat16(), SAMPLES.targets), SAMPLES)
    assert prediction.outputs.dtype == prediction.columns["loss"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_targets_of_any_integer_type_are_classes(dtype):
    batch = (SAMPLES.inputs, SAMPLES.targets.to(dtype))
    task().check(batch, SAMPLES)
    assert task().predict(linear(), None, batch, SAMPLES).targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 4]), r"target 4 is outside the 4 classes \[0, 3\]"),
        (torch.tensor([0, -1]), r"target -1 is outside the 4 classes \[0, 3\]"),
        (torch.tensor([0.0, 1.0]), "targets should be integers, one a sample"),
        (torch.tensor([[0], [1]]), "targets should be integers, one a sample"),
        (("a", "b"), r"targets should be integers, one a sample; found \('a', 'b'\)"),
    ],
)
def test_targets_that_are_no_class_are_refused(targets, message):
    with pytest.raises(TaskError, match=message):
        task().check((SAMPLES.inputs[:2], targets), SAMPLES)


@pytest.mark.parametrize(
    ("width", "head", "message"),
    [
        (
            3,
            None,
            r"shape \(50, 4\) \(samples, classes\), found \(50, 3\); if these are features, the task needs a head",
        ),
        (3, nn.Linear(3, 5), r"shape \(50, 4\) \(samples, classes\), found \(50, 5\); the head is made for other"),
        (3, nn.Linear(2, 4), "features have width 3, the head of the task takes 2"),
    ],
)
def test_outputs_of_a_wrong_width_are_refused(width, head, message):
    with pytest.raises(TaskError, match=message):
        task().predict(linear(width), head, (SAMPLES.inputs, SAMPLES.targets), SAMPLES)


def test_a_model_that_merges_samples_is_refused():
    class Pooling(nn.Module):
        def forward(self, inputs):
            return inputs[:, :4].mean(dim=0, keepdim=True)

    with pytest.raises(TaskError, match=r"shape \(50, 4\) \(samples, classes\), found \(1, 4\)"):
        task().predict(Pooling(), None, (SAMPLES.inputs, SAMPLES.targets), SAMPLES)


def test_the_number_of_classes_is_given_or_comes_from_the_data():
    nameless = TensorSamples(SAMPLES.inputs, SAMPLES.targets)
    assert task(num_classes=4).build_metrics(nameless)["accuracy"].num_classes == 4
    assert task().build_metrics(SAMPLES)["accuracy"].num_classes == 4
    with pytest.raises(TaskError, match="does not name its classes; set num_classes"):
        task().build_metrics(nameless)


def test_another_number_of_classes_than_the_data_names_is_refused():
    with pytest.raises(TaskError, match="num_classes is 5, but the data names 4 classes: a, b, c, d"):
        task(num_classes=5).build_metrics(SAMPLES)


@pytest.mark.parametrize(
    "factory",
    [
        MulticlassF1Score,
        partial(Accuracy, task="multiclass"),
        lambda num_classes: MulticlassAccuracy(num_classes, top_k=2),
    ],
)
def test_any_factory_makes_a_metric_for_these_classes(factory):
    assert task({"metric": factory}).build_metrics(SAMPLES)["metric"].num_classes == 4


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (partial(MulticlassAccuracy, top_k=9), "metrics.bad: .*top_k"),
        (partial(MulticlassAccuracy, averag="micro"), "metrics.bad: .*averag"),
        (lambda num_classes: {"accuracy": 1.0}, "metrics.bad: made dict, expected a torchmetrics.Metric"),
    ],
)
def test_a_factory_that_makes_no_metric_is_refused(factory, message):
    with pytest.raises(TaskError, match=message):
        task({"bad": factory}).build_metrics(SAMPLES)


@pytest.mark.parametrize(
    "factory",
    [
        CrossEntropy,
        ACCURACY,
        partial(TopKAccuracy, k=1),
        partial(TopKAccuracy, k=2),
        partial(Accuracy, task="multiclass"),
    ],
)
def test_the_mean_of_the_sample_values_is_the_metric(factory):
    tested = task({"metric": factory})
    prediction = tested.predict(linear(), None, (SAMPLES.inputs, SAMPLES.targets), SAMPLES)
    metric = tested.build_metrics(SAMPLES)["metric"]
    metric.update(prediction.outputs.detach(), prediction.targets)
    columns = {name: column.detach().numpy() for name, column in prediction.columns.items()}
    values = tested.sample_values(metric, columns)
    assert values.shape == (50,)
    assert np.mean(values) == pytest.approx(float(metric.compute()), abs=1e-6)


@pytest.mark.parametrize(
    "metric",
    [
        MulticlassAccuracy(4, average="macro"),
        MulticlassF1Score(4, average="micro"),
        MulticlassAccuracy(4, average="micro", ignore_index=0),
        MulticlassAccuracy(4, average="micro", top_k=2),  # its ties are not ours
    ],
)
def test_a_metric_that_is_no_mean_over_the_columns_has_no_sample_values(metric):
    columns = {"rank": np.zeros(3), "loss": np.zeros(3), "target": np.zeros(3)}
    assert task().sample_values(metric, columns) is None
