from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.weightstats import DescrStatsW

from fusion_eval.report import statistics
from fusion_eval.report.clusters import resampled_indices
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


@given(
    hnp.arrays(np.float64, 40, elements=st.floats(-100, 100)),
    hnp.arrays(np.int64, 40, elements=st.integers(0, 6)),
)
def test_a_clustered_standard_error_is_that_of_statsmodels(values, groups):
    """Ordinary least squares on a constant, Liang and Zeger's covariance, with its correction for few groups."""
    if len(np.unique(groups)) < 2:
        assert standard_error_of_mean(values, groups) is None
        return
    fitted = OLS(values, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    names = np.array([f"video {code}" for code in groups])
    assert standard_error_of_mean(values, names) == pytest.approx(fitted.bse[0], rel=1e-6, abs=1e-9)


@given(hnp.arrays(np.float64, st.integers(2, 50), elements=finite))
def test_groups_of_one_sample_are_no_groups(values):
    alone = np.random.default_rng(0).permutation(len(values))
    assert standard_error_of_mean(values, alone) == pytest.approx(standard_error_of_mean(values), rel=1e-9, abs=1e-9)


def test_a_sample_repeated_in_its_group_is_no_news():
    values = np.random.default_rng(0).random(30)
    once = standard_error_of_mean(values)
    assert standard_error_of_mean(np.repeat(values, 7), np.repeat(np.arange(30), 7)) == pytest.approx(once)
    assert standard_error_of_mean([1.0, np.nan, 0.0], np.array([0, 0, 1])) is None


def test_a_cluster_bootstrap_has_the_error_of_the_formula_and_that_of_scipy():
    generator = np.random.default_rng(4)
    groups = np.repeat(np.arange(40), generator.integers(1, 12, size=40))
    values = generator.normal(size=40)[groups] + generator.normal(size=len(groups))
    statistics_of = {"mean": np.mean, "median": np.median}
    found = {
        name: bootstrap_standard_error(lambda i, f=f: float(f(values[i])), len(values), 2000, groups=groups)
        for name, f in statistics_of.items()
    }
    assert found["mean"] == pytest.approx(standard_error_of_mean(values, groups), rel=0.06)
    units = [values[groups == group] for group in range(40)]
    oracle = scipy.stats.bootstrap(
        (np.arange(40),),
        lambda drawn: np.median(np.concatenate([units[unit] for unit in drawn])),
        n_resamples=2000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    assert found["median"] == pytest.approx(oracle.standard_error * np.sqrt(40 / 39), rel=0.08)
    assert found["mean"] > 1.5 * scipy.stats.sem(values)


def test_a_resample_of_groups_takes_them_whole():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    for indices in resampled_indices(6, groups, 50, np.random.default_rng(0)):
        for name in "abc":
            counts = {int((indices == index).sum()) for index in np.flatnonzero(groups == name)}
            assert len(counts) == 1
    assert bootstrap_standard_error(lambda indices: 1.0, 6, groups=np.zeros(6)) is None


def test_clustered_paired_bootstrap_has_exactly_the_distribution_of_resampling_groups():
    scores, groups = np.array([[1, 0], [1, 0], [0, 1], [1, 1]]), np.array([0, 1, 1, 2])
    exact = [
        tuple(np.concatenate([scores[groups == group] for group in drawn]).mean(0))
        for drawn in itertools.product(range(3), repeat=3)
    ]
    outcomes, weights = np.unique(np.round(exact, 9), axis=0, return_counts=True)
    drawn = paired_bootstrap_means(scores, 20_000, np.random.default_rng(0), groups)
    counts = [np.isclose(drawn, outcome).all(1).sum() for outcome in outcomes]
    assert sum(counts) == 20_000
    assert scipy.stats.chisquare(counts, weights / weights.sum() * 20_000).pvalue > 1e-3
