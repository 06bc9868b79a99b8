from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional

from fusion_eval.tasks import BalancedAccuracy, CalibrationError, CrossEntropy, TopKAccuracy
from fusion_eval.tasks.metrics import target_rank


def sample(n: int, classes: int, seed: int, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    return logits, torch.randint(classes, (n,), generator=generator)


def in_batches(metric, logits, targets, sizes):
    for part in zip(logits.split(sizes), targets.split(sizes), strict=True):
        metric.update(*part)
    return float(metric.compute())


def calibration_error(logits: np.ndarray, targets: np.ndarray, bins: int) -> float:
    """Equation 3 of arXiv 1706.04599 in plain numpy: bins are open on the left, closed on the right."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_cross_entropy_is_the_mean_over_samples_however_they_are_batched(seed, sizes):
    logits, targets = sample(sum(sizes), 7, seed)
    found = in_batches(CrossEntropy(), logits, targets, sizes)
    expected = log_loss(targets, logits.double().softmax(dim=1), labels=range(7))
    assert found == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_of_half_precision_logits_is_taken_in_float32():
    logits, targets = sample(500, 10, 0)
    metric = CrossEntropy()
    metric.update(logits.bfloat16(), targets)
    assert float(metric.compute()) == pytest.approx(
        float(functional.cross_entropy(logits.bfloat16().float(), targets)), abs=1e-6
    )


@pytest.mark.parametrize("scale", [1e-3, 0.3, 4.0])
@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_equals_its_definition_also_for_logits_that_look_like_probabilities(scale, bins):
    logits, targets = sample(600, 6, 3)
    logits = logits.abs() * scale  # scale 1e-3: all in [0, 1], which torchmetrics takes for probabilities
    found = in_batches(CalibrationError(num_classes=6, n_bins=bins), logits, targets, [100, 7, 493])
    assert found == pytest.approx(calibration_error(logits.double().numpy(), targets.numpy(), bins), abs=2e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 5))
def test_top_k_accuracy_equals_scikit_learn(seed, k):
    logits, targets = sample(90, 6, seed)
    found = in_batches(TopKAccuracy(num_classes=6, k=k), logits, targets, [50, 40])
    assert found == pytest.approx(top_k_accuracy_score(targets, logits, k=k, labels=range(6)))


def test_top_k_accuracy_is_one_where_there_are_no_more_than_k_classes():
    metric = TopKAccuracy(k=5)
    metric.update(*sample(20, 3, 0))
    assert float(metric.compute()) == 1.0


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_accuracy_refuses_a_k_below_one(k):
    with pytest.raises(ValueError, match=f"k: expected an integer >= 1, found {k}"):
        TopKAccuracy(k=k)


def test_rank_zero_is_exactly_argmax_also_where_logits_tie():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(3, (400, 5), generator=generator).float()  # three values for five classes: ties in most rows
    targets = torch.randint(5, (400,), generator=generator)
    assert torch.equal(target_rank(logits, targets) == 0, logits.argmax(dim=1) == targets)


def test_the_ranks_of_all_classes_are_a_permutation_also_where_logits_tie():
    logits = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ranks = [int(target_rank(logits, torch.tensor([target]))) for target in range(4)]
    assert ranks == [0, 1, 3, 2]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
def test_balanced_accuracy_equals_scikit_learn_also_where_classes_are_missing(seed, n):
    logits, targets = sample(n, 12, seed)
    found = in_batches(BalancedAccuracy(num_classes=12), logits, targets, [n])
    with warnings.catch_warnings():  # scikit-learn tells of predicted classes without samples
        warnings.simplefilter("ignore")
        expected = balanced_accuracy_score(targets, logits.argmax(dim=1))
    assert found == pytest.approx(expected, abs=1e-6)
