"""The bounds hold at all times at once, with the stated probability, and are of use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from fusion_eval.racing.bounds import draw_order, evidence, upper_bound

SIZES = (40, 160, 400)


@pytest.fixture(scope="module")
def weights():
    """Of the samples of three tasks, each of which counts a third."""
    return np.concatenate([np.full(size, 1 / (3 * size)) for size in SIZES])


def share_refuted(differences, weights, error, draws, mean=0.0):
    """In how many of the draws a mean was refuted at some time."""
    orders = (draw_order(weights, seed) for seed in range(draws))
    highest = [evidence(differences[order], weights[order], mean).max() for order in orders]
    return np.mean(np.array(highest) >= np.log(1 / error))


def tied(kind, weights):
    """Differences in [-1, 1] whose weighted mean is 0: the hardest case of a merge that must not be dropped."""
    rng = np.random.default_rng(0)
    differences = {
        "few": rng.choice([-1.0, 0.0, 1.0], size=len(weights), p=[0.05, 0.9, 0.05]),
        "all": rng.choice([-1.0, 1.0], size=len(weights)),
        "graded": rng.uniform(-0.5, 0.5, size=len(weights)),
        "skewed": np.where(rng.random(len(weights)) < 0.03, -1.0, 0.03),
        "between tasks": np.repeat([-0.6, 0.1, 0.5], SIZES),
    }[kind]
    for _ in range(50):  # to a mean of zero, within the range
        differences = np.clip(differences - differences @ weights, -1, 1)
    return differences


@pytest.mark.parametrize("kind", ["few", "all", "graded", "skewed", "between tasks"])
@pytest.mark.parametrize("error", [0.05, 0.3])
def test_what_is_true_is_refuted_at_any_time_with_the_stated_probability_at_most(kind, error, weights):
    differences, draws = tied(kind, weights), 600
    assert differences @ weights == pytest.approx(0, abs=1e-9)
    assert share_refuted(differences, weights, error, draws) <= error + 3 * np.sqrt(error * (1 - error) / draws)


def test_what_is_false_is_refuted(weights):
    worse = np.where(np.random.default_rng(0).random(len(weights)) < 0.4, -1.0, 0.1)
    assert share_refuted(worse, weights, 0.05, 50) == 1
    assert share_refuted(worse, weights, 0.05, 50, mean=worse @ weights) <= 0.1


@pytest.mark.parametrize("mean", [0.0, -0.3])
def test_the_capital_is_that_of_a_loop_over_the_definition(mean, weights):
    rng = np.random.default_rng(0)
    order = draw_order(weights, seed=1)[:80]
    drawn, of_drawn = rng.choice([-1.0, -0.4, 0.0, 1.0], size=80), weights[order]
    capital, expected = dict.fromkeys([0.06, 0.12, 0.25, 0.5, 0.9], 0.2), []
    known, left = 0.0, 1.0
    for difference, weight in zip(drawn, of_drawn, strict=True):
        mean_of_rest = (mean - known) / left
        for stake in capital:
            capital[stake] *= 1 + stake * (mean_of_rest - difference) / (1 - mean_of_rest)
        known, left = known + weight * difference, left - weight
        expected.append(sum(capital.values()))
    assert np.allclose(evidence(drawn, of_drawn, mean), np.log(expected))


def test_no_bet_wins_in_expectation_if_what_is_left_has_the_mean(weights):
    differences = np.random.default_rng(0).uniform(-1, 1, len(weights))
    order = draw_order(weights, seed=0)
    seen, rest = order[:100], order[100:]
    mean = differences @ weights
    before = evidence(differences[seen], weights[seen], mean)[-1]
    after = [evidence(differences[np.append(seen, after)], weights[np.append(seen, after)], mean)[-1] for after in rest]
    expected = np.average(np.exp(np.array(after) - before), weights=weights[rest])
    assert expected == pytest.approx(1)


def test_samples_come_in_proportion_to_their_weight(weights):
    first = np.array([draw_order(weights, seed)[:2] for seed in range(3000)])
    task = np.searchsorted(np.cumsum(SIZES), first, side="right")
    assert np.bincount(task[:, 0]) / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)
    from_smallest = task[task[:, 0] == 0, 1] == 0  # of whose weight a fortieth is gone
    assert from_smallest.mean() == pytest.approx((39 / 40) / (39 / 40 + 2), abs=0.05)
    assert (np.sort(draw_order(weights, 0)) == np.arange(len(weights))).all()


@given(st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.5, 1.0]), min_size=1, max_size=40), st.integers(0, 40))
@settings(deadline=None, max_examples=100)
def test_the_bound_is_what_is_refuted_just_above(seen, unseen):
    seen = np.array(seen)
    weights = np.full(len(seen), 1 / (len(seen) + unseen))
    bound = upper_bound(seen, weights, 0.05)
    least = seen @ weights - unseen / (len(seen) + unseen)
    assert least - 1e-9 <= bound <= 1
    assert (bound <= 0) == (evidence(seen, weights).max() >= np.log(20))
    if unseen == 0:
        assert bound >= seen.mean() - 1e-9


def test_the_bound_is_the_root_that_scipy_finds(weights):
    order = draw_order(weights, seed=0)[:200]
    seen = np.where(np.random.default_rng(0).random(200) < 0.3, -1.0, 0.0)
    root = brentq(lambda mean: evidence(seen, weights[order], mean).max() - np.log(20), -0.9, 0.9)
    assert upper_bound(seen, weights[order], 0.05) == pytest.approx(root, abs=2e-5)


def test_what_cannot_be_caught_up_is_certain():
    lost = np.append(np.full(6, -1.0), 1.0)
    assert np.isposinf(evidence(lost, np.full(7, 0.1))[-1])  # 0.6 lost, 0.4 left
