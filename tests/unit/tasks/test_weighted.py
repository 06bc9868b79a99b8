"""Weighted forms against the metrics themselves, updated with each sample as often as it counts, and scikit-learn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassFBetaScore,
    MulticlassHammingDistance,
    MulticlassMatthewsCorrCoef,
    MulticlassNegativePredictiveValue,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassSpecificity,
)

from fusion_eval.tasks import BalancedAccuracy, CalibrationError
from fusion_eval.tasks.weighted import weighted_form

OF_HITS = [
    MulticlassAccuracy,
    MulticlassF1Score,
    partial(MulticlassFBetaScore, beta=2.0),
    partial(MulticlassF1Score, zero_division=1),
    MulticlassHammingDistance,
    MulticlassNegativePredictiveValue,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassSpecificity,
]
FACTORIES = [
    *(partial(metric, average=average) for metric in OF_HITS for average in ("macro", "micro", "weighted")),
    BalancedAccuracy,
    *(partial(CalibrationError, norm=norm, n_bins=n_bins) for norm in ("l1", "l2", "max") for n_bins in (1, 15)),
]


def draw(n, classes, seed, sets=4):
    """Logits, some of them equal, targets, and weights of which each set has one above 0."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    logits = torch.randint(-8, 8, (n, classes), generator=generator) / 4
    logits[0] = 200 * torch.nn.functional.one_hot(targets[0], classes)  # a confidence of 1
    weights = torch.randint(3, (sets, n), generator=generator)
    weights[:, 0] += 1
    return logits, targets, weights


@pytest.mark.parametrize("factory", FACTORIES)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 40), classes=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_a_form_gives_what_the_metric_gives_for_repeated_samples(factory, n, classes, seed):
    logits, targets, weights = draw(n, classes, seed)
    metric = factory(num_classes=classes)
    values = weighted_form(metric, logits, targets)(weights)
    for value, counts in zip(values, weights, strict=True):
        metric.reset()
        metric.update(logits.repeat_interleave(counts, 0), targets.repeat_interleave(counts))
        assert float(value) == pytest.approx(float(metric.compute()), abs=2e-6)


def test_forms_give_what_scikit_learn_gives_for_sample_weights():
    logits, targets, weights = draw(200, 5, seed=0)
    sample = targets.numpy(), logits.argmax(dim=1).numpy()
    f1 = weighted_form(MulticlassF1Score(num_classes=5, average="macro"), logits, targets)(weights)
    balanced = weighted_form(BalancedAccuracy(num_classes=5), logits, targets)(weights)
    for row, counts in enumerate(weights.numpy()):
        assert float(f1[row]) == pytest.approx(f1_score(*sample, average="macro", sample_weight=counts))
        assert float(balanced[row]) == pytest.approx(balanced_accuracy_score(*sample, sample_weight=counts))


class Derived(MulticlassF1Score):
    pass


class DerivedFromOurs(BalancedAccuracy):
    pass


@pytest.mark.parametrize(
    "metric",
    [
        Derived(num_classes=3),
        DerivedFromOurs(num_classes=3),
        MulticlassMatthewsCorrCoef(num_classes=3),
        MulticlassF1Score(num_classes=3, top_k=2),
        MulticlassF1Score(num_classes=3, ignore_index=0),
        BalancedAccuracy(num_classes=3, ignore_index=0),
        CalibrationError(num_classes=3, ignore_index=0),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_what_may_measure_something_else_has_no_form(metric):
    assert weighted_form(metric, torch.eye(3), torch.arange(3)) is None


@pytest.mark.parametrize("factory", [MulticlassF1Score, BalancedAccuracy, CalibrationError])
def test_the_metric_is_left_as_it_is(factory):
    metric = factory(num_classes=3)
    metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = float(metric.compute())
    weighted_form(metric, torch.eye(3), torch.arange(3))(torch.ones(2, 3, dtype=torch.int64))
    metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(before)
    assert np.isfinite(before)
