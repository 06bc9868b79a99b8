from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, PearsonCorrCoef, R2Score

from fusion_eval import Runner, TaskPool, build
from fusion_eval.config import compose_option
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.errors import TaskError
from fusion_eval.tasks import PearsonCorrelation, Regression, SpearmanCorrelation

METRICS = {
    "spearman": SpearmanCorrelation,
    "pearson": PearsonCorrelation,
    "r2": R2Score,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
}
numbers = st.floats(-1e3, 1e3, width=32)


@dataclass(frozen=True)
class Held(DataSource):
    """Samples that are there already."""

    samples: TensorSamples

    def load(self):
        return self.samples


def samples(k=None, n=103):
    draw = np.random.default_rng(5)
    inputs = torch.tensor(draw.normal(size=(n, 4)), dtype=torch.float32)
    targets = torch.tensor(np.round(draw.normal(size=(n, k or 1)) + inputs[:, :1].numpy(), 1), dtype=torch.float32)
    return TensorSamples(inputs, targets if k else targets[:, 0])


def linear(outputs=1):
    torch.manual_seed(3)
    return nn.Linear(4, outputs)


def run(data, model, metrics=METRICS, **settings):
    report = TaskPool({"task": Regression(Held(data), metrics)}).evaluate(model, Runner(progress=False, **settings))
    return report["task"], report.results["task"]


def by_definition(outputs, targets):
    """Each metric as scipy and scikit-learn have it, over one number a sample."""
    return {
        "spearman": scipy.stats.spearmanr(outputs, targets).statistic,
        "pearson": scipy.stats.pearsonr(outputs, targets).statistic,
        "r2": sklearn.metrics.r2_score(targets, outputs),
        "mse": sklearn.metrics.mean_squared_error(targets, outputs),
        "mae": sklearn.metrics.mean_absolute_error(targets, outputs),
    }


@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_the_report_is_what_scipy_and_sklearn_say_whatever_the_batch_size(batch_size):
    data, model = samples(), linear()
    found, _ = run(data, model, batch_size=batch_size, bootstrap=0)
    with torch.no_grad():
        outputs = model(data.inputs)[:, 0].double().numpy()
    assert found == pytest.approx(by_definition(outputs, data.targets.double().numpy()), rel=1e-6)


def test_of_several_numbers_a_metric_is_the_mean_over_them():
    data, model = samples(k=3), linear(3)
    found, result = run(data, model, batch_size=20, bootstrap=0)
    with torch.no_grad():
        outputs = model(data.inputs).double().numpy()
    each = [by_definition(outputs[:, i], data.targets[:, i].double().numpy()) for i in range(3)]
    expected = {name: np.mean([one[name] for one in each]) for name in METRICS}
    assert found == pytest.approx(expected, rel=1e-6)
    error = outputs - data.targets.double().numpy()
    assert list(result.samples) == ["index", "absolute_error", "squared_error"]
    assert result.samples["absolute_error"] == pytest.approx(np.abs(error).mean(axis=1))
    assert result.samples["squared_error"] == pytest.approx((error**2).mean(axis=1))


def test_each_sample_leaves_target_prediction_and_error_and_means_have_their_standard_error():
    data, model = samples(), linear()
    _, result = run(data, model, bootstrap=20)
    with torch.no_grad():
        outputs = model(data.inputs)[:, 0].double().numpy()
    targets = data.targets.double().numpy()
    assert list(result.samples) == ["index", "target", "prediction", "error"]
    assert result.samples["target"] == pytest.approx(targets)
    assert result.samples["prediction"] == pytest.approx(outputs)
    assert result.samples["error"] == pytest.approx(outputs - targets)
    assert result.standard_errors["mse"] == pytest.approx(scipy.stats.sem((outputs - targets) ** 2))
    assert result.standard_errors["mae"] == pytest.approx(scipy.stats.sem(np.abs(outputs - targets)))
    assert 0.01 < result.standard_errors["pearson"] < 0.3
    assert result.primary == "spearman"


def test_a_root_mean_squared_error_is_no_mean_and_gets_a_bootstrap():
    data = samples()
    found, result = run(data, linear(), {"rmse": partial(MeanSquaredError, squared=False)}, bootstrap=20)
    both, _ = run(data, linear(), bootstrap=0)
    assert found["rmse"] == pytest.approx(both["mse"] ** 0.5, rel=1e-6)
    assert 0 < result.standard_errors["rmse"] < found["rmse"]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_ranks_and_their_ties_are_those_of_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    metric = SpearmanCorrelation()
    for start in range(0, len(x), 7):
        metric.update(torch.tensor(x[start : start + 7]), torch.tensor(y[start : start + 7]))
    constant = len(set(x)) == 1 or len(set(y)) == 1
    expected = 0 if constant else scipy.stats.spearmanr(x, y).statistic
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=40))
def test_pearson_is_the_one_of_torchmetrics_where_that_is_defined(pairs):
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    metric, other = PearsonCorrelation(), PearsonCorrCoef().set_dtype(torch.float64)
    metric.update(x, y)
    if min(x.std(), y.std()) > 1e-3 * max(x.abs().max(), y.abs().max()):
        other.update(x, y)
        assert float(metric.compute()) == pytest.approx(float(other.compute()), abs=1e-9)
    assert -1 <= float(metric.compute()) <= 1


def test_values_far_from_zero_keep_their_digits():
    x = torch.arange(100.0, dtype=torch.float64) + 1e7
    metric = PearsonCorrelation()
    metric.update(x, x + torch.sin(x))
    assert float(metric.compute()) == pytest.approx(
        scipy.stats.pearsonr(x.numpy(), (x + torch.sin(x)).numpy()).statistic, rel=1e-9
    )


def test_a_collapsed_model_correlates_with_nothing():
    model = linear()
    nn.init.zeros_(model.weight)
    found, _ = run(samples(), model, bootstrap=5)
    assert found["spearman"] == found["pearson"] == 0


@pytest.mark.parametrize("name", ["spearman", "pearson", "r2"])
def test_targets_that_are_all_equal_leave_a_correlation_undefined(name):
    data = TensorSamples(samples().inputs, torch.full((103,), 2.5))
    with pytest.raises(TaskError, match=r"is undefined: all 103 targets are 2\.5"):
        run(data, linear(), {name: METRICS[name]}, bootstrap=0)
    assert run(data, linear(), {"mse": MeanSquaredError})[0]["mse"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_that_is_no_number_is_refused(value):
    data = samples()
    data.targets[40] = value
    with pytest.raises(TaskError, match=f"a target is {value}; targets should be finite numbers"):
        run(data, linear())


def test_an_output_that_is_no_number_is_refused():
    data = samples()
    data.inputs[40] = float("nan")
    with pytest.raises(TaskError, match="not finite on this task"):
        run(data, linear())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["high", "low"], r"targets should be numbers, of shape \(n,\) or \(n, k\); found \['high', 'low'\]"),
        (torch.zeros(2, 3, 4), "targets should be numbers"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(targets, message):
    with pytest.raises(TaskError, match=message):
        Regression(Held(samples()), METRICS).check((torch.zeros(2, 4), targets), samples())


@pytest.mark.parametrize(
    ("outputs", "head", "message"),
    [
        (3, None, r"shape \(103, 1\) \(samples, numbers\), found \(103, 3\); if these are features, the task needs"),
        (3, nn.Linear(3, 2), r"shape \(103, 1\) \(samples, numbers\), found \(103, 2\)$"),
    ],
)
def test_outputs_of_a_wrong_width_are_refused(outputs, head, message):
    data = samples()
    with pytest.raises(TaskError, match=message):
        Regression(Held(data), METRICS).predict(linear(outputs), head, (data.inputs, data.targets), data)


def test_integer_targets_are_numbers_too():
    data = TensorSamples(samples().inputs, torch.arange(103))
    found, _ = run(data, linear(), {"mae": MeanAbsoluteError})
    with torch.no_grad():
        expected = (linear()(data.inputs)[:, 0] - torch.arange(103)).abs().mean()
    assert found["mae"] == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("factory", "message"),
    [(dict, r"metrics\.bad: made dict, expected a torchmetrics\.Metric"), (MulticlassAccuracy, r"metrics\.bad: ")],
)
def test_a_metric_that_cannot_be_made_is_named(factory, message):
    with pytest.raises(TaskError, match=message):
        Regression(Held(samples()), {"bad": factory}).build_metrics(samples())


def test_the_metrics_of_the_config_are_these():
    made = build({"_target_": "builtins.dict", **compose_option("metrics", "regression")})
    assert {name: factory.func for name, factory in made.items()} == METRICS
