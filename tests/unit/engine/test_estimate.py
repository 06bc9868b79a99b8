from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval.data import Arrays
from fusion_eval.engine.estimate import estimate_metrics
from fusion_eval.errors import TaskError
from fusion_eval.report import statistics
from fusion_eval.tasks import BalancedAccuracy, CalibrationError, Classification, CrossEntropy
from fusion_eval.tasks.metrics import target_rank

N, CLASSES = 300, 5
GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.randint(CLASSES, (N,), generator=GENERATOR)
LOGITS = torch.randn(N, CLASSES, generator=GENERATOR) + 1.5 * torch.nn.functional.one_hot(TARGETS, CLASSES)
COLUMNS = {
    "index": np.arange(1000, 1000 + N),
    "target": TARGETS.numpy(),
    "loss": torch.nn.functional.cross_entropy(LOGITS, TARGETS, reduction="none").numpy(),
    "rank": target_rank(LOGITS, TARGETS).numpy(),
}
FACTORIES = {
    "accuracy": partial(MulticlassAccuracy, num_classes=CLASSES, average="micro"),
    "loss": CrossEntropy,
    "f1": partial(MulticlassF1Score, num_classes=CLASSES, average="macro"),
    "ece": partial(CalibrationError, num_classes=CLASSES),
}
TASK = Classification(Arrays("unused.npz"), FACTORIES)


def estimate(names, resamples=100, columns=COLUMNS, outputs=LOGITS, seed=0, **changed):
    metrics = {name: FACTORIES[name]() for name in names}
    for metric in metrics.values():
        metric.update(LOGITS, TARGETS)
    logged = {name: float(metric.compute()) for name, metric in metrics.items()} | changed
    return estimate_metrics(TASK, metrics, logged, columns, (outputs.numpy(), columns["target"]), resamples, seed)


def test_means_have_the_standard_error_of_scipy():
    values, errors = estimate(["accuracy", "loss"], resamples=0)
    hits = (LOGITS.argmax(dim=1) == TARGETS).numpy()
    assert values == pytest.approx({"accuracy": hits.mean(), "loss": COLUMNS["loss"].astype(float).mean()}, rel=1e-12)
    assert errors == pytest.approx({"accuracy": stats.sem(hits), "loss": stats.sem(COLUMNS["loss"].astype(float))})


def test_other_metrics_have_about_the_standard_error_of_scipys_bootstrap():
    def score(target, prediction):
        return f1_score(target, prediction, average="macro")

    sample = (TARGETS.numpy(), LOGITS.argmax(dim=1).numpy())
    oracle = stats.bootstrap(
        sample, score, n_resamples=400, paired=True, vectorized=False, method="percentile", rng=np.random.default_rng(1)
    )
    values, errors = estimate(["f1"], resamples=400)
    assert values["f1"] == pytest.approx(score(*sample), abs=1e-6)
    assert errors["f1"] == pytest.approx(oracle.standard_error, rel=0.2)  # each is good to 1 / sqrt(800), 3.5 %


def test_the_bootstrap_is_seeded_and_leaves_the_metric_and_torch_as_they_were():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again, other = (estimate(["f1", "ece"], resamples=20, seed=seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first["f1"] != other["f1"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_is_restored_also_after_an_error():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="size of tensor"):
            estimate(["f1"], outputs=LOGITS[:10])  # too few for 300 targets
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("resamples", [0, 1])
def test_without_resamples_only_means_have_errors(resamples):
    values, errors = estimate(["accuracy", "f1"], resamples=resamples)
    assert values.keys() == {"accuracy", "f1"}
    assert errors.keys() == {"accuracy"}


class UpdatedF1(MulticlassF1Score):
    """No form of its own, so that it is updated with each resample, as torchmetrics has it."""


class UpdatedError(CalibrationError):
    """Likewise."""


class UpdatedBalancedAccuracy(BalancedAccuracy):
    """Likewise."""


@pytest.mark.parametrize("groups", [None, np.arange(N) % 17])
def test_resamples_at_once_give_the_errors_of_resamples_one_by_one(groups, monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK", 7 * N)  # 30 resamples come in five pieces
    columns = COLUMNS if groups is None else {**COLUMNS, "group": groups}
    metrics = {
        "f1": (MulticlassF1Score(CLASSES, average="macro"), UpdatedF1(CLASSES, average="macro")),
        "balanced": (BalancedAccuracy(CLASSES), UpdatedBalancedAccuracy(CLASSES)),
        "ece": (CalibrationError(CLASSES), UpdatedError(CLASSES)),
    }
    errors = []
    for chosen in ({name: pair[way] for name, pair in metrics.items()} for way in (0, 1)):
        for metric in chosen.values():
            metric.update(LOGITS, TARGETS)
        logged = {name: float(metric.compute()) for name, metric in chosen.items()}
        task = Classification(Arrays("unused.npz"), dict.fromkeys(chosen, CrossEntropy))
        updates = LOGITS.numpy(), TARGETS.numpy()
        errors.append(estimate_metrics(task, chosen, logged, columns, updates, 30, seed=3)[1])
    at_once, one_by_one = errors
    assert list(at_once) == ["f1", "balanced", "ece"]
    assert at_once["f1"] == one_by_one["f1"]
    assert at_once == pytest.approx(one_by_one, rel=1e-5)


class Wrong(MulticlassF1Score):
    def weighted(self, outputs, targets):
        return lambda weights: weights.sum(dim=1) / 1000


def test_a_form_that_contradicts_its_metric_is_refused(monkeypatch):
    monkeypatch.setitem(FACTORIES, "f1", partial(Wrong, num_classes=CLASSES))
    with pytest.raises(TaskError, match=r"f1: logged 0\.\d+, but its weighted form gives 0\.3"):
        estimate(["f1"])


def test_values_are_plain_floats():
    values, errors = estimate(["accuracy", "loss", "f1", "ece"], resamples=2)
    assert {type(number) for number in [*values.values(), *errors.values()]} == {float}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(TaskError, match=f"f1 is {value}: the model's outputs are not finite"):
        estimate(["accuracy", "f1"], f1=value)


def test_a_single_nan_sample_is_refused_by_its_index_also_where_no_metric_shows_it():
    loss = COLUMNS["loss"].copy()
    loss[7] = np.nan
    with pytest.raises(TaskError, match="loss is NaN for 1 of 300 samples, first for sample 1007"):
        estimate(["accuracy"], columns={**COLUMNS, "loss": loss})


def test_a_metric_that_contradicts_its_samples_is_refused():
    with pytest.raises(TaskError, match=r"accuracy: logged 0.5, but the samples have the mean 0\.\d+"):
        estimate(["accuracy"], accuracy=0.5)
