"""What the best of many is worth, by simulation: the truth is known there."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_eval.report.optimism import best_of_many


def studies(accuracies, n=300, repeats=50):
    """Truth, observed and corrected accuracy of the best of models with known accuracies on fresh samples."""
    rows = []
    for seed in range(repeats):
        scores = (np.random.default_rng(seed).random((n, len(accuracies))) < accuracies).astype(float)
        best = scores.mean(axis=0).argmax()
        rows.append((accuracies[best], scores[:, best].mean(), best_of_many({"t": scores}, {"t": 1.0}, resamples=60)))
    return np.mean(rows, axis=0)


def test_the_best_of_equal_models_is_no_better_than_they_are():
    truth, observed, corrected = studies(np.full(25, 0.7))
    assert observed - truth > 0.04
    assert corrected == pytest.approx(truth, abs=0.01)


def test_a_real_difference_stays():
    truth, observed, corrected = studies(np.append(np.full(10, 0.6), 0.85))
    assert truth == pytest.approx(0.85)
    assert observed == pytest.approx(corrected, abs=0.005)
    assert corrected == pytest.approx(truth, abs=0.01)


def test_of_one_model_it_is_its_mean():
    scores = (np.random.default_rng(0).random((500, 1)) < 0.7).astype(float)
    assert best_of_many({"t": scores}, {"t": 1.0}) == pytest.approx(scores.mean(), abs=0.003)


def test_tasks_are_weighted_and_resampled_each_for_itself():
    generator = np.random.default_rng(0)
    scores = {"a": generator.random((40, 3)), "b": generator.random((9000, 3))}
    found = best_of_many(scores, {"a": 0.5, "b": 0.5}, resamples=50)
    assert found == best_of_many(scores, {"a": 0.5, "b": 0.5}, resamples=50)
    assert found == pytest.approx(0.5, abs=0.08)
    assert best_of_many(scores, {"a": 5.0, "b": 5.0}, resamples=50) == pytest.approx(10 * found)
