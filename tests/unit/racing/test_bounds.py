"""The bounds hold at all times at once, with the stated probability, and are of use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.racing.bounds import upper_bounds

values = st.lists(st.floats(-1, 1), min_size=1, max_size=40)


def crossed(population, error, draws, seed, low=-1.0, high=1.0):
    """In how many of the draws some bound was below the mean of the population."""
    rng = np.random.default_rng(seed)
    mean = population.mean()
    bounds = (upper_bounds(rng.permutation(population), len(population), low, high, error) for _ in range(draws))
    return np.mean([(bound < mean - 1e-9).any() for bound in bounds])


@pytest.mark.parametrize("error", [0.05, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_the_mean_is_below_all_bounds_with_the_stated_probability(share, error):
    population = np.zeros(500)
    population[: int(share * 250)] = 1
    population[250 : 250 + int(share * 250)] = -1
    draws = 1000
    assert crossed(population, error, draws, seed=0) <= error + 3 * np.sqrt(error * (1 - error) / draws)


def test_a_skewed_population_is_covered_too():
    population = np.full(300, 0.01)
    population[:3] = -1  # rare and large: what a normal approximation would miss
    assert crossed(population, 0.1, 1000, seed=1) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 1000)


@given(values, st.integers(1, 30))
@settings(deadline=None, max_examples=100)
def test_once_all_is_seen_the_bound_is_the_mean_and_never_below_it_by_what_is_certain(seen, unseen):
    seen = np.array(seen)
    whole = upper_bounds(seen, len(seen), -1, 1, 0.05)
    assert (np.diff(whole) <= 1e-12).all()
    assert whole[0] <= 1
    # were all that is unseen as high as can be, the mean is what is known for sure: a bound is never above that
    total = len(seen) + unseen
    assert (upper_bounds(seen, total, -1, 1, 0.05)[-1] <= (seen.sum() + unseen) / total + 1e-9).all()
    assert whole[-1] <= seen.mean() + 1e-9


def test_a_clear_difference_shows_early_and_a_small_one_late():
    rng = np.random.default_rng(0)
    seen = []
    for gap in (0.1, 0.03):
        population = np.where(rng.random(4000) < 0.1 + gap / 2, -1.0, np.where(rng.random(4000) < 0.1, 1.0, 0.0))
        bounds = upper_bounds(rng.permutation(population), 4000, -1, 1, 0.05)
        seen.append(int(np.argmax(bounds < 0)))
    assert 0 < seen[0] < 800
    assert seen[0] < seen[1]
    assert crossed(np.zeros(100), 0.05, 10, seed=0) == 0


def test_units_do_not_matter():
    seen = np.random.default_rng(0).uniform(-1, 1, 50)
    assert np.allclose(3 * upper_bounds(seen, 100, -1, 1, 0.05) + 2, upper_bounds(3 * seen + 2, 100, -1, 5, 0.05))
