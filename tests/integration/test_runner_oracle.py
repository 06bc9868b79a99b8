"""The runner equals a plain PyTorch loop with scikit-learn's metrics, on every embedded task."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score

from fusion_eval import MergedModel, Runner, TaskArithmetic, TaskPool, build, compose
from fusion_eval.engine.store import ResultStore
from fusion_eval.zoo import Encoder

TASKS = ["optdigits", "mnist", "scripts", "textures"]
MODELS = ["random", "merged"]


def pool():
    return build(compose().taskpool)


@functools.cache
def model(kind):
    if kind == "merged":
        return build(compose().modelpool).merge(TaskArithmetic(scaling=0.3))
    torch.manual_seed(0)
    classes = {name: len(task.data.load().class_names) for name, task in pool().tasks.items()}
    return MergedModel(Encoder(), {name: torch.nn.Linear(Encoder.features, count) for name, count in classes.items()})


def calibration_error(probabilities, targets, bins=15):
    """Equation 3 of arXiv 1706.04599; bins are open on the left, closed on the right."""
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    bin_of = np.searchsorted(edges, confidence, side="left")
    gaps = [abs(hits[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean() for b in set(bin_of)]
    return float(sum(gaps))


@functools.cache
def oracle(kind, name):
    """A plain loop, one batch size, and scikit-learn: metrics, and what is known of each sample."""
    samples, tested = pool().tasks[name].data.load(), model(kind)
    backbone, head = tested.backbone.eval(), tested.heads[name].eval()
    with torch.inference_mode():
        parts = samples.inputs.split(200)
        logits = torch.cat([head(backbone(part)) for part in parts])
    probabilities = logits.softmax(dim=1).numpy()
    exact = logits.double().softmax(dim=1).numpy()
    targets, predictions, labels = samples.targets.numpy(), logits.argmax(dim=1).numpy(), range(logits.shape[1])
    metrics = {
        "accuracy": accuracy_score(targets, predictions),
        "loss": log_loss(targets, exact, labels=labels),
        "top5": top_k_accuracy_score(targets, logits.numpy(), k=5, labels=labels),
        "macro_f1": f1_score(targets, predictions, average="macro", zero_division=0),
        "balanced_accuracy": balanced_accuracy_score(targets, predictions),
        "ece": calibration_error(probabilities, targets),
    }
    losses = -np.log(exact[np.arange(len(targets)), targets])
    return metrics, {"target": targets, "prediction": predictions, "loss": losses, "confidence": exact.max(axis=1)}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())


def test_these_are_the_embedded_tasks():
    assert list(pool().tasks) == TASKS


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_runner_equals_a_plain_loop_and_scikit_learn(kind, name):
    metrics, columns = oracle(kind, name)
    report = TaskPool({name: pool().tasks[name]}).evaluate(model(kind), Runner(bootstrap=0))
    assert report[name].keys() == metrics.keys()
    assert report[name] == pytest.approx(metrics, abs=1e-6)
    result = report.results[name]
    assert result.count == len(columns["target"])
    assert np.array_equal(result.samples["index"], np.arange(result.count))
    assert np.array_equal(result.samples["target"], columns["target"])
    assert np.array_equal(result.samples["prediction"], columns["prediction"])
    assert np.allclose(result.samples["loss"], columns["loss"], atol=1e-5)
    assert np.allclose(result.samples["confidence"], columns["confidence"], atol=1e-6)
    hits = columns["prediction"] == columns["target"]
    assert result.standard_errors["accuracy"] == pytest.approx(stats.sem(hits), rel=1e-9)
    assert result.standard_errors["loss"] == pytest.approx(stats.sem(columns["loss"]), rel=1e-5)


@pytest.mark.parametrize("settings", [{"batch_size": 37}, {"batch_size": 64, "num_workers": 2}, {"batch_size": 5000}])
def test_neither_batches_nor_workers_change_a_number(settings):
    """640 optdigits: 37 and 5000 do not divide them, 64 does."""
    metrics, _ = oracle("random", "optdigits")
    report = TaskPool({"optdigits": pool().tasks["optdigits"]}).evaluate(
        model("random"), Runner(bootstrap=0, **settings)
    )
    assert report["optdigits"] == pytest.approx(metrics, abs=1e-6)


def test_a_limit_is_the_same_loop_over_fewer_samples():
    name, limit = "textures", 60
    result = (
        TaskPool({name: pool().tasks[name]}).evaluate(model("random"), Runner(bootstrap=0, limit=limit)).results[name]
    )
    _, columns = oracle("random", name)
    chosen = result.samples["index"]
    targets, predictions = columns["target"][chosen], columns["prediction"][chosen]
    assert result.metrics["accuracy"] == accuracy_score(targets, predictions)
    assert result.metrics["loss"] == pytest.approx(columns["loss"][chosen].mean(), abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert result.metrics["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"), abs=1e-6)
