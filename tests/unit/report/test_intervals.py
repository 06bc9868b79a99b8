"""Intervals against SciPy and statsmodels, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from fusion_eval.report.intervals import measure, measure_mean, normal_interval, score_interval, wilson_interval
from fusion_eval.report.statistics import standard_error_of_mean


@given(n=st.integers(1, 5000), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=100, deadline=None)
def test_wilson_is_that_of_statsmodels(n, share, level):
    right = round(share * n)
    expected = proportion_confint(right, n, alpha=1 - level, method="wilson")
    assert wilson_interval(right / n, n, level) == pytest.approx(expected, abs=1e-9)


def test_the_normal_interval_is_that_of_scipy():
    assert normal_interval(0.3, 0.02) == pytest.approx(stats.norm.interval(0.95, 0.3, 0.02))


def test_students_quantiles_are_those_of_scipy():
    assert normal_interval(0.3, 0.02, freedom=7) == pytest.approx(stats.t.interval(0.95, 7, 0.3, 0.02))
    wide, narrow = wilson_interval(0.3, 50, freedom=4), wilson_interval(0.3, 50, freedom=10**6)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert narrow == pytest.approx(wilson_interval(0.3, 50), abs=1e-5)


def test_what_has_no_value_or_no_error_has_no_interval():
    assert measure(None, 0.1).low is None
    assert measure(0.3, None).low is None
    assert measure(0.3, None, np.array([0.1, 0.5])).low is None
    one_group = np.zeros(10, int)
    assert measure(0.5, None, np.repeat([0.0, 1.0], 5), one_group).low is None


def test_a_share_of_groups_is_no_more_certain_than_of_samples():
    right = np.repeat([1.0, 0.0, 1.0, 1.0], 25)
    groups = np.repeat(list("abcd"), 25)
    clustered = measure(0.75, standard_error_of_mean(right, groups), right, groups)
    independent = measure(0.75, standard_error_of_mean(right), right)
    assert clustered.low < independent.low < independent.high < clustered.high
    perfect = measure(1.0, standard_error_of_mean(np.ones(100), groups), np.ones(100), groups)
    assert perfect.high == 1.0
    assert perfect.low == pytest.approx(wilson_interval(1.0, 4, freedom=3)[0])  # four draws, not a hundred


def clustered_shares(generator, groups, share, correlation):
    """0/1 scores in groups of 1 to 19, whose success rates are of a beta distribution: beta-binomial."""
    codes = np.repeat(np.arange(groups), generator.integers(1, 20, size=groups))
    scale = 1 / correlation - 1
    return (generator.random(len(codes)) < generator.beta(share * scale, (1 - share) * scale, groups)[codes]), codes


@pytest.mark.parametrize(("share", "least"), [(0.6, 0.93), (0.9, 0.89)])
def test_clustered_intervals_cover_where_those_of_independent_samples_do_not(share, least):
    """1000 studies of 40 groups with correlation 0.3: nominal 95 %, less where few failures decide (see the paper)."""
    generator = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(1000):
        right, groups = clustered_shares(generator, 40, share, 0.3)
        scores = right.astype(float)
        found = measure(scores.mean(), standard_error_of_mean(scores, groups), scores, groups)
        wrong = measure(scores.mean(), standard_error_of_mean(scores), scores)
        covered += found.low <= share <= found.high
        naive += wrong.low <= share <= wrong.high
    assert least < covered / 1000 < 0.98
    assert naive / 1000 < 0.75


def test_intervals_of_clustered_means_cover():
    """Groups of 12 share half of their variance: nominal 95 %; of 1000 studies, within 2.3 points of it in 99.9 %."""
    generator = np.random.default_rng(2)
    groups, covered = np.repeat(np.arange(12), 12), 0
    for _ in range(1000):
        losses = 2 + generator.normal(size=12)[groups] + generator.normal(size=len(groups))
        found = measure(losses.mean(), standard_error_of_mean(losses, groups), losses, groups)
        covered += found.low <= 2 <= found.high
    assert 0.927 < covered / 1000 < 0.973


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_intervals_of_independent_samples_cover(share):
    """Wilson's is known to cover 95 % on average over shares, 92 to 98 % at any one."""
    generator = np.random.default_rng(3)
    right = generator.binomial(200, share, size=2000) / 200
    ends = np.array([wilson_interval(value, 200) for value in right])
    assert 0.92 < ((ends[:, 0] <= share) & (share <= ends[:, 1])).mean() < 0.98


@pytest.mark.parametrize(
    ("accuracies", "sizes"),
    [
        ((0.72, 0.85, 0.52, 0.55), (640, 1001, 955, 471)),
        ((0.98, 0.98, 0.98, 0.98), (60, 60, 60, 60)),
        ((0.995, 0.99, 0.97, 0.9), (60, 60, 60, 60)),
        ((0.99, 0.95, 0.6, 0.5), (60, 60, 60, 60)),
        ((0.98,) * 20, (30,) * 20),
        ((0.98, 0.98), (30, 10_000)),
        ((0.99, 0.6), (30, 5_000)),
        ((0.98, 0.98, 0.98), (20, 50, 20_000)),
    ],
)
def test_intervals_of_a_mean_over_tasks_cover_also_where_almost_all_is_right(accuracies, sizes):
    """1000 studies: nominal 95 %; sums of few failures take few values, which makes it 92 to 98 %."""
    generator, mean = np.random.default_rng(4), np.mean(accuracies)
    drawn = generator.binomial(sizes, accuracies, size=(1000, len(sizes))) / sizes
    ends = np.array([score_interval(shares, sizes) for shares in drawn])
    assert 0.925 < ((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean() < 0.98
    if max(sizes) > 100 * min(sizes):  # where a mean plus or minus so many errors is no interval
        errors = np.sqrt((drawn * (1 - drawn) / (np.array(sizes) - 1)).sum(axis=1)) / len(sizes)
        assert (np.abs(drawn.mean(axis=1) - mean) <= 1.96 * errors).mean() < 0.93


@given(
    st.lists(st.integers(2, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2, max_size=4),
    st.sampled_from([0.8, 0.95]),
)
@settings(max_examples=30, deadline=None)
def test_the_ends_are_where_the_score_test_begins_to_refuse(counts, level):
    """The likeliest proportions with a mean are looked for by SciPy."""
    right, sizes = np.array(counts, dtype=float).T
    found = float(np.mean(right / sizes))

    def statistic(mean):
        def surprise(p):
            return -(special.xlogy(right, p) + special.xlogy(sizes - right, 1 - p)).sum() / sizes.sum()

        inside = [(1e-9, 1 - 1e-9)] * len(sizes)
        start = np.full(len(sizes), mean)
        same_mean = optimize.LinearConstraint(np.full((1, len(sizes)), 1 / len(sizes)), mean, mean)
        p = optimize.minimize(surprise, start, bounds=inside, constraints=same_mean, options={"ftol": 1e-14}).x
        return (found - mean) / np.sqrt((p * (1 - p) / sizes).sum()) * len(sizes)

    low, high = score_interval(right / sizes, sizes, level)
    assert 0 <= low <= found <= high <= 1
    quantile = stats.norm.ppf(0.5 + level / 2)
    if found > 0:
        assert statistic(low) == pytest.approx(quantile, rel=2e-3)
    if found < 1:
        assert statistic(high) == pytest.approx(-quantile, rel=2e-3)


@given(n=st.integers(1, 5000), share=st.floats(0, 1), tasks=st.integers(1, 5))
def test_the_score_interval_of_equal_tasks_is_wilsons_of_all_samples(n, share, tasks):
    right = round(share * n)
    expected = proportion_confint(right * tasks, n * tasks, method="wilson")
    assert score_interval([right / n] * tasks, [n] * tasks) == pytest.approx(expected, abs=1e-9)


def test_a_mean_of_perfect_tasks_is_that_of_statsmodels_with_all_samples():
    found = measure_mean(1.0, 0.0, [np.ones(30), np.ones(30)])
    assert (found.low, found.high) == pytest.approx(proportion_confint(60, 60, method="wilson"))
    losses = [np.array([0.1, 0.7]), np.ones(2)]
    assert measure_mean(0.7, 0.1, losses) == measure(0.7, 0.1)
    assert measure_mean(0.7, None, [np.ones(1)]).low is None
