from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.weightstats import DescrStatsW

from fusion_eval.report import statistics
from fusion_eval.report.statistics import bootstrap_standard_error, paired_bootstrap_means, standard_error_of_mean

finite = st.floats(-1e6, 1e6)


@given(hnp.arrays(np.float64, st.integers(2, 50), elements=finite))
def test_standard_error_of_mean_is_that_of_scipy_and_statsmodels(values):
    error = standard_error_of_mean(values)
    assert error == pytest.approx(scipy.stats.sem(values), rel=1e-12, abs=1e-12)
    assert error == pytest.approx(DescrStatsW(values).std_mean, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_an_undefined_standard_error_is_none(values):
    assert standard_error_of_mean(values) is None


def test_standard_error_of_right_and_wrong():
    right = np.arange(100) < 80
    assert standard_error_of_mean(right) == pytest.approx(scipy.stats.sem(right.astype(float)))


def test_bootstrap_agrees_with_scipy_on_a_statistic_without_closed_form():
    values = np.random.default_rng(1).lognormal(size=300)
    ours = bootstrap_standard_error(lambda indices: np.median(values[indices]), 300, resamples=4000)
    theirs = scipy.stats.bootstrap((values,), np.median, n_resamples=4000, rng=2).standard_error
    assert ours == pytest.approx(theirs, rel=0.06)  # each is known to 1 / sqrt(2 * 4000) = 1.1 %


def test_bootstrap_is_seeded():
    values = np.random.default_rng(1).normal(size=50)

    def error(seed):
        return bootstrap_standard_error(lambda indices: values[indices].mean(), 50, seed=seed)

    assert error(3) == error(3) != error(4)


def test_bootstrap_of_what_some_resamples_do_not_have_is_none():
    values = np.array([0.0, 1.0, 1.0])
    with np.errstate(divide="ignore"):
        assert bootstrap_standard_error(lambda indices: 1 / values[indices].mean(), 3) is None
    assert bootstrap_standard_error(lambda indices: 1.0, 1) is None
    assert bootstrap_standard_error(lambda indices: 1.0, 3, resamples=0) is None


def test_paired_bootstrap_has_exactly_the_distribution_of_resampling_rows():
    scores = np.array([[1, 0], [1, 0], [0, 1], [1, 1]])
    exact = [tuple(scores[list(rows)].sum(0)) for rows in itertools.product(range(4), repeat=4)]
    outcomes, weights = np.unique(exact, axis=0, return_counts=True)
    drawn = np.rint(paired_bootstrap_means(scores, 20_000, np.random.default_rng(0)) * 4).astype(int)
    counts = [(drawn == outcome).all(1).sum() for outcome in outcomes]
    assert sum(counts) == 20_000
    assert scipy.stats.chisquare(counts, weights / weights.sum() * 20_000).pvalue > 1e-3


def test_paired_bootstrap_keeps_the_covariance_of_the_models():
    generator = np.random.default_rng(0)
    common = generator.random(800)
    scores = np.stack([common < 0.8, common < 0.7, generator.random(800) < 0.5], axis=1)
    means = paired_bootstrap_means(scores, 5000, generator)
    expected = np.cov(scores, rowvar=False, bias=True) / 800
    np.testing.assert_allclose(np.cov(means, rowvar=False), expected, atol=0.08 * expected.max())


def test_paired_bootstrap_does_not_depend_on_how_much_fits_in_memory(monkeypatch):
    scores = np.random.default_rng(0).random((30, 2))
    whole = paired_bootstrap_means(scores, 50, np.random.default_rng(1))
    monkeypatch.setattr(statistics, "_CHUNK", 7 * 30)
    np.testing.assert_allclose(paired_bootstrap_means(scores, 50, np.random.default_rng(1)), whole, rtol=1e-12)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.floats(-1, 1)))
def test_resampled_means_stay_within_the_scores(scores):
    means = paired_bootstrap_means(scores, 20, np.random.default_rng(0))
    assert means.shape == (20, scores.shape[1])
    assert (means >= scores.min(0) - 1e-12).all()
    assert (means <= scores.max(0) + 1e-12).all()
