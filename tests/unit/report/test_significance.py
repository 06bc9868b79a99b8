"""Tests, intervals and adjustments against SciPy and statsmodels, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fusion_eval.report.significance import (
    holm,
    mcnemar_exact,
    normal_interval,
    paired_difference,
    wilson_interval,
)


@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_mcnemar_is_that_of_statsmodels(gained, lost):
    expected = mcnemar([[7, lost], [gained, 3]], exact=True).pvalue
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_samples_neither_overflows_nor_takes_long():
    assert mcnemar_exact(13_000, 13_400) == pytest.approx(stats.binomtest(13_000, 26_400).pvalue, rel=1e-6)
    assert mcnemar_exact(0, 20_000) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_of_nothing():
    assert holm([]) == []


@given(n=st.integers(1, 5000), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=100, deadline=None)
def test_wilson_is_that_of_statsmodels(n, share, level):
    right = round(share * n)
    expected = proportion_confint(right, n, alpha=1 - level, method="wilson")
    assert wilson_interval(right / n, n, level) == pytest.approx(expected, abs=1e-9)


def test_the_normal_interval_is_that_of_scipy():
    assert normal_interval(0.3, 0.02) == pytest.approx(stats.norm.interval(0.95, 0.3, 0.02))


def models(generator, n, accuracies, shared=0.5):
    """0/1 scores of shape (n, models): what is hard for one is likely hard for the others."""
    hard = generator.random((n, 1)) < shared
    same, own = generator.random((n, 1)), generator.random((n, len(accuracies)))
    return (np.where(hard, same, own) < np.array(accuracies)).astype(float)


def test_a_bootstrap_difference_has_the_error_of_the_paired_formula():
    first, second = models(np.random.default_rng(0), 3000, [0.7, 0.75]).T
    found = paired_difference({"a": first, "b": second}, {"a": second, "b": second}, {"a": 0.5, "b": 0.5})
    assert found.value == pytest.approx((first - second).mean() / 2)
    assert found.standard_error == pytest.approx(stats.sem(first - second) / 2, rel=0.03)
    unpaired = np.hypot(stats.sem(first), stats.sem(second)) / 2
    assert found.standard_error < 0.8 * unpaired
    z = found.value / (stats.sem(first - second) / 2)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


def test_equal_models_do_not_differ():
    scores = np.random.default_rng(0).random(50)
    found = paired_difference({"a": scores}, {"a": scores.copy()}, {"a": 1.0}, resamples=200)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_direction_and_the_seed():
    first, second = models(np.random.default_rng(1), 400, [0.6, 0.7]).T
    forward = paired_difference({"a": first}, {"a": second}, {"a": 1.0}, seed=3)
    assert forward == paired_difference({"a": first}, {"a": second}, {"a": 1.0}, seed=3)
    assert forward != paired_difference({"a": first}, {"a": second}, {"a": 1.0}, seed=4)
    assert forward.value < 0
    assert paired_difference({"a": second}, {"a": first}, {"a": 1.0}).value == -forward.value


@pytest.mark.parametrize("kind", ["right or wrong", "losses"])
def test_false_positives_and_coverage_are_five_per_cent(kind):
    """Two tasks of unequal size; both models truly equal. Of 400 studies, 1.4 to 8.6 % are wrong in 99.9 % of cases."""
    generator = np.random.default_rng(5)
    significant = outside = 0
    for _ in range(400):
        first, second = {}, {}
        for task, n in (("small", 60), ("large", 120)):
            if kind == "losses":
                hard = generator.exponential(size=n)
                first[task], second[task] = hard + generator.exponential(size=(2, n))
            else:
                first[task], second[task] = models(generator, n, [0.7, 0.7]).T
        found = paired_difference(first, second, {"small": 0.5, "large": 0.5}, resamples=199)
        significant += found.p_value <= 0.05
        outside += not found.low <= 0 <= found.high
    assert 0.014 < significant / 400 < 0.086
    assert 0.014 < outside / 400 < 0.086


def test_holm_over_several_models_keeps_the_family_wise_error():
    """Ten models as good as the first one: some pair is called different in at most about 5 % of studies."""
    generator = np.random.default_rng(6)
    wrong = 0
    for _ in range(100):
        scores = models(generator, 200, [0.7] * 11)
        p_values = [
            paired_difference({"a": scores[:, 0]}, {"a": scores[:, k]}, {"a": 1.0}, resamples=399).p_value
            for k in range(1, 11)
        ]
        wrong += min(holm(p_values)) < 0.05
    assert wrong / 100 < 0.11
