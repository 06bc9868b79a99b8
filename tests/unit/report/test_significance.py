"""Tests, intervals and adjustments against SciPy and statsmodels, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from fusion_eval.report.best import against_the_best
from fusion_eval.report.significance import holm, mcnemar_exact, paired_difference, sign_flip_test
from fusion_eval.report.statistics import standard_error_of_mean


@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_mcnemar_is_that_of_statsmodels(gained, lost):
    expected = mcnemar([[7, lost], [gained, 3]], exact=True).pvalue
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_samples_neither_overflows_nor_takes_long():
    assert mcnemar_exact(13_000, 13_400) == pytest.approx(stats.binomtest(13_000, 26_400).pvalue, rel=1e-6)
    assert mcnemar_exact(0, 20_000) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=20, deadline=None)
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_of_nothing():
    assert holm([]) == []


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


@given(gained=st.integers(0, 40), lost=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_flipped_signs_of_single_samples_are_the_exact_mcnemar_test(gained, lost):
    differences = np.repeat([1.0, -1.0, 0.0], [gained, lost, 10])
    tolerance = {"abs": 1e-12} if gained + lost <= 13 else {"abs": 0.025}  # 9999 random flips: five standard errors
    assert sign_flip_test(differences) == pytest.approx(mcnemar_exact(gained, lost), **tolerance)


@pytest.mark.parametrize("units", [5, 12, 40])
def test_flipped_signs_are_the_permutation_test_of_scipy(units):
    first, second = np.random.default_rng(units).normal([[0.0], [0.4]], size=(2, units))
    oracle = stats.permutation_test(
        (first, second),
        lambda a, b: (a - b).sum(),
        permutation_type="samples",
        n_resamples=9999 if units > 13 else np.inf,
        rng=np.random.default_rng(0),
        vectorized=False,
    )
    assert sign_flip_test(first - second) == pytest.approx(oracle.pvalue, abs=1e-12 if units < 13 else 0.015)


def test_flipped_signs_of_nothing_and_of_rounding_errors():
    assert sign_flip_test([]) == sign_flip_test([0.0, 0.0]) == 1.0
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0  # a sum of 5e-17


def clustered_models(generator, groups, size, accuracies):
    """0/1 scores of shape (groups * size, models): each model finds a group of its own choice easy."""
    ease = generator.beta(2, 1, size=(groups, len(accuracies)))
    odds = np.repeat(ease, size, axis=0) * np.array(accuracies) * 1.5
    return (generator.random(odds.shape) < odds).astype(float), np.repeat(np.arange(groups), size)


@pytest.mark.parametrize("groups", [8, 30])
def test_clustered_false_positives_are_five_per_cent_and_those_of_mcnemar_are_not(groups):
    generator = np.random.default_rng(7)
    significant = naive = outside = 0
    for _ in range(400):
        scores, codes = clustered_models(generator, groups, 20, [0.5, 0.5])
        found = paired_difference({"a": scores[:, 0]}, {"a": scores[:, 1]}, {"a": 1.0}, {"a": codes}, resamples=499)
        significant += found.p_value <= 0.05
        outside += not found.low <= 0 <= found.high
        change = scores[:, 0] - scores[:, 1]
        naive += mcnemar_exact(int((change > 0).sum()), int((change < 0).sum())) <= 0.05
    assert 0.014 < significant / 400 < 0.086
    assert outside / 400 < (0.086 if groups > 20 else 0.14)  # the bootstrap of eight groups is too sure of itself
    assert naive / 400 > 0.25


def test_a_clustered_difference_has_the_error_of_the_formula():
    scores, codes = clustered_models(np.random.default_rng(8), 60, 10, [0.5, 0.6])
    free = np.random.default_rng(9).random((300, 2))
    first, second = ({"a": scores[:, k], "b": free[:, k]} for k in (0, 1))
    found = paired_difference(second, first, {"a": 0.5, "b": 0.5}, {"a": codes})
    errors = [standard_error_of_mean(second["a"] - first["a"], codes), stats.sem(second["b"] - first["b"])]
    assert found.value == pytest.approx(0.5 * sum((second[task] - first[task]).mean() for task in "ab"))
    assert found.standard_error == pytest.approx(np.hypot(*errors) / 2, rel=0.05)
    z = found.value / (np.hypot(*errors) / 2)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.02)


def test_groups_of_one_change_nothing_but_the_test():
    first, second = models(np.random.default_rng(1), 400, [0.6, 0.7]).T
    alone = {"a": np.arange(400)}
    one, other = (paired_difference({"a": first}, {"a": second}, {"a": 1.0}, groups) for groups in (None, alone))
    assert (one.value, one.standard_error, one.low) == (other.value, other.standard_error, other.low)
    gained, lost = (int((first - second == sign).sum()) for sign in (1, -1))
    assert other.p_value == pytest.approx(mcnemar_exact(gained, lost), abs=0.01)


def test_the_best_of_clustered_models_is_tested_by_groups():
    generator = np.random.default_rng(3)
    wrong = {"grouped": 0, "not": 0}
    for _ in range(60):
        scores, codes = clustered_models(generator, 25, 20, [0.5] * 6)
        ranked = [{"a": scores[:, k]} for k in np.argsort(-scores.mean(axis=0))]
        for name, groups in (("grouped", {"a": codes}), ("not", None)):
            p_values, change = against_the_best(ranked, {"a": 1.0}, groups, resamples=299)
            assert change <= 0
            wrong[name] += min(p_values) < 0.05
    assert wrong["grouped"] < 0.5 * wrong["not"]


def test_one_sample_proves_nothing():
    found = paired_difference({"a": np.ones(1)}, {"a": np.zeros(1)}, {"a": 1.0})
    assert (found.value, found.standard_error, found.low, found.high, found.p_value) == (1.0, None, None, None, 1.0)


@pytest.mark.parametrize("n", [3, 8])
def test_false_positives_of_few_samples_are_at_most_five_per_cent(n):
    generator = np.random.default_rng(11)
    significant = 0
    for _ in range(400):
        first, second = (generator.random((2, n)) < 0.5).astype(float)
        significant += paired_difference({"a": first}, {"a": second}, {"a": 1.0}, resamples=99).p_value <= 0.05
    assert significant / 400 <= 0.05
