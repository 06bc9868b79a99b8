from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MultilabelExactMatch, MultilabelHammingDistance

from fusion_eval import Runner, TaskPool, build
from fusion_eval.config import compose_option
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.errors import TaskError
from fusion_eval.tasks import MultiLabel

pytestmark = pytest.mark.filterwarnings("ignore:No positive:UserWarning")
"""scikit-learn and torchmetrics count a label that no sample has as 0, and say so."""

LABELS = ("cat", "dog", "bird", "never", "always")


@dataclass(frozen=True)
class Held(DataSource):
    """Samples that are there already."""

    samples: TensorSamples

    def load(self):
        return self.samples


def samples(n=101, class_names=LABELS):
    draw = np.random.default_rng(2)
    inputs = torch.tensor(draw.normal(size=(n, 4)), dtype=torch.float32)
    targets = torch.tensor(draw.random((n, 5)) < [0.5, 0.2, 0.3, 0, 1]).float()
    return TensorSamples(inputs, targets, class_names)


def linear(outputs=5, scale=1.0):
    torch.manual_seed(1)
    model = nn.Linear(4, outputs)
    model.weight.data *= scale
    return model


def metrics():
    return build({"_target_": "builtins.dict", **compose_option("metrics", "multi_label")})


def run(data, model, **settings):
    report = TaskPool({"task": MultiLabel(Held(data), metrics())}).evaluate(model, Runner(progress=False, **settings))
    return report["task"], report.results["task"]


@pytest.mark.parametrize("scale", [0.01, 1, 30])
@pytest.mark.parametrize("batch_size", [9, 200])
def test_the_report_is_what_sklearn_says_whatever_the_batch_size_and_the_size_of_the_logits(batch_size, scale):
    data, model = samples(), linear(scale=scale)
    found, _ = run(data, model, batch_size=batch_size, bootstrap=0)
    with torch.no_grad():
        logits = model(data.inputs).double().numpy()
    targets, predicted = data.targets.numpy(), logits > 0
    expected = {
        "map": sklearn.metrics.average_precision_score(targets, logits, average="macro"),
        "micro_f1": sklearn.metrics.f1_score(targets, predicted, average="micro", zero_division=0),
        "macro_f1": sklearn.metrics.f1_score(targets, predicted, average="macro", zero_division=0),
        "exact_match": sklearn.metrics.accuracy_score(targets, predicted),
        "hamming": sklearn.metrics.hamming_loss(targets, predicted),
    }
    assert found == pytest.approx(expected, abs=2e-6)


def test_each_sample_leaves_counts_and_a_loss_and_means_have_their_standard_error():
    data, model = samples(), linear()
    _, result = run(data, model, bootstrap=10)
    with torch.no_grad():
        logits = model(data.inputs)
    wrong = ((logits > 0) != data.targets).sum(dim=1)
    loss = functional.binary_cross_entropy_with_logits(logits, data.targets, reduction="none").mean(dim=1)
    assert list(result.samples) == ["index", "labels", "predicted", "wrong", "loss"]
    assert result.samples["labels"].tolist() == data.targets.sum(dim=1).tolist()
    assert result.samples["predicted"].tolist() == (logits > 0).sum(dim=1).tolist()
    assert result.samples["wrong"].tolist() == wrong.tolist()
    assert result.samples["loss"] == pytest.approx(loss.numpy(), rel=1e-5)
    assert result.standard_errors["hamming"] == pytest.approx((wrong / 5).std() / 101**0.5)
    assert result.standard_errors["exact_match"] == pytest.approx((wrong == 0).double().std() / 101**0.5)
    assert 0 < result.standard_errors["map"] < 0.2
    assert result.primary == "map"


def test_another_threshold_is_no_mean_of_the_columns():
    task = MultiLabel(Held(samples()), metrics())
    columns = {"wrong": np.array([0, 1])}
    assert task.sample_values(MultilabelExactMatch(5), columns).tolist() == [True, False]
    assert task.sample_values(MultilabelExactMatch(5, threshold=0.3), columns) is None
    assert task.sample_values(MultilabelHammingDistance(5), columns).tolist() == [0, 0.2]
    assert task.sample_values(MultilabelHammingDistance(5, average="weighted"), columns) is None


def test_an_output_that_is_no_number_is_refused():
    data = samples()
    data.inputs[40] = float("nan")
    with pytest.raises(TaskError, match="loss is NaN for 1 of 101 samples, first for sample 40"):
        run(data, linear())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([1, 2]), r"multi-hot, of shape \(samples, 5\); found \(2,\)"),
        (torch.zeros(2, 4), r"multi-hot, of shape \(samples, 5\); found \(2, 4\)"),
        (torch.full((2, 5), 2), r"multi-hot targets are 0 or 1; found 2$"),
        (torch.full((2, 5), float("nan")), r"multi-hot targets are 0 or 1; found nan"),
        (["cat"], r"multi-hot, of shape \(samples, 5\); found \['cat'\]"),
    ],
)
def test_targets_that_are_not_multi_hot_are_refused(targets, message):
    with pytest.raises(TaskError, match=message):
        MultiLabel(Held(samples()), metrics()).check((torch.zeros(2, 4), targets), samples())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_multi_hot_targets_are_of_any_type(dtype):
    data = samples()
    typed = TensorSamples(data.inputs, data.targets.to(dtype), LABELS)
    assert run(typed, linear(), bootstrap=0)[0] == run(data, linear(), bootstrap=0)[0]


def test_outputs_of_a_wrong_width_are_refused():
    data = samples()
    task = MultiLabel(Held(data), metrics())
    with pytest.raises(TaskError, match=r"shape \(101, 5\) \(samples, labels\), found \(101, 3\); if these are feat"):
        task.predict(linear(3), None, (data.inputs, data.targets), data)
    assert task.predict(linear(3), nn.Linear(3, 5), (data.inputs, data.targets), data).outputs.shape == (101, 5)


def test_the_number_of_labels_is_given_or_comes_from_the_data():
    nameless = samples(class_names=None)
    made = MultiLabel(Held(nameless), metrics(), num_labels=5).build_metrics(nameless)
    assert {metric.num_labels for metric in made.values()} == {5}
    with pytest.raises(TaskError, match="does not name its classes; set num_labels"):
        MultiLabel(Held(nameless), metrics()).build_metrics(nameless)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: {}, r"metrics\.bad: made dict, expected a torchmetrics\.Metric"),
        (partial(MultilabelExactMatch, threshold=7), r"metrics\.bad: "),
    ],
)
def test_a_metric_that_cannot_be_made_is_named(factory, message):
    with pytest.raises(TaskError, match=message):
        MultiLabel(Held(samples()), {"bad": factory}).build_metrics(samples())
