"""DELLA against the equations of its paper, with SciPy's ranks, and the methods it becomes.

mergekit draws from a global generator and restores an L1 norm, so its numbers cannot be repeated here.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import TaskArithmetic, Ties
from fusion_eval.merging.dare import Dare
from fusion_eval.merging.della import Della


def drop(vector, density, window, seed=0):
    """MagPrune of one task vector: what is left, rescaled."""
    method = Della(1.0, density, window, "sum", seed)
    return method({"w": torch.zeros(vector.shape).double()}, {"one": {"w": torch.from_numpy(vector)}})["w"].numpy()


def keep_probabilities(vector, density, window):
    """By the docstring, row by row."""
    rows = np.abs(vector).reshape(len(vector), -1) if vector.ndim > 1 else np.abs(vector)[None]
    r = rows.shape[1] - stats.rankdata(rows, axis=1, method="ordinal")  # 0: the largest
    p = 1 - density - window / 2 + window * r / (rows.shape[1] - 1)
    return (1 - p).reshape(vector.shape)


@pytest.mark.parametrize("shape", [(200,), (6, 40), (6, 4, 3, 3)])
@pytest.mark.parametrize(("density", "window"), [(0.5, 0.0), (0.5, 0.4), (0.3, 0.5), (0.9, 0.2)])
def test_what_is_kept_is_divided_by_the_probability_to_be_kept(shape, density, window):
    vector = np.random.default_rng(0).standard_t(3, size=shape)
    left = drop(vector, density, window)
    expected = vector / keep_probabilities(vector, density, window)
    np.testing.assert_allclose(left[left != 0], expected[left != 0], rtol=1e-12)
    assert 0 < np.count_nonzero(left) < left.size


def test_values_are_kept_as_often_as_their_probability_says():
    vector = np.random.default_rng(0).standard_t(3, size=(3, 8))
    times = 600
    kept = sum(drop(vector, 0.5, 0.8, seed) != 0 for seed in range(times))
    probabilities = keep_probabilities(vector, 0.5, 0.8)
    assert probabilities.min() == pytest.approx(0.1)
    assert probabilities.max() == pytest.approx(0.9)
    for count, probability in zip(kept.ravel(), probabilities.ravel(), strict=True):
        assert stats.binomtest(int(count), times, probability).pvalue > 1e-4


@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_elect_and_fuse(consensus):
    generator = np.random.default_rng(1)
    base, *tuned = (generator.normal(size=(20, 15)) for _ in range(4))
    experts = {f"{i}": {"w": torch.from_numpy(expert)} for i, expert in enumerate(tuned)}
    merged = Della(0.7, 0.5, 0.3, consensus)({"w": torch.from_numpy(base)}, experts)["w"]
    alone = Della(1.0, 0.5, 0.3, "sum")
    zero = {"w": torch.zeros(20, 15).double()}
    vectors = [
        alone(zero, {name: {"w": expert["w"] - torch.from_numpy(base)}})["w"].numpy()
        for name, expert in experts.items()
    ]
    expected = base.copy()
    for at in np.ndindex(base.shape):
        values = [vector[at] for vector in vectors]
        if consensus == "ties":
            values = [value for value in values if value * sum(values) > 0]
            expected[at] += 0.7 * np.mean(values) if values else 0
        else:
            expected[at] += 0.7 * sum(values)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_without_a_window_it_is_dare_of_the_same_seed(base, experts, consensus):
    same = Dare(0.7, 0.3, consensus, seed=4)(base, experts)
    torch.testing.assert_close(Della(0.7, 0.3, 0.0, consensus, 4)(base, experts), same, rtol=1e-6, atol=1e-6)


def test_nothing_dropped(base, experts):
    everything = {"density": 1.0, "window": 0.0}
    torch.testing.assert_close(
        Della(0.4, **everything, consensus="sum")(base, experts), TaskArithmetic(0.4)(base, experts), rtol=0, atol=0
    )
    torch.testing.assert_close(Della(0.4, **everything)(base, experts), Ties(0.4, 1.0)(base, experts), rtol=0, atol=0)


@settings(max_examples=15, deadline=None)
@given(density=st.floats(0.21, 0.8), seed=st.integers(), consensus=st.sampled_from(["sum", "ties"]))
def test_scaling_0_is_the_base_and_no_order_matters(base, experts, density, seed, consensus):
    assert_same(Della(0, density, 0.4, consensus, seed)(base, experts), base)
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    method = Della(0.5, density, 0.4, consensus, seed)
    assert_same(method(dict(reversed(base.items())), backwards), method(base, experts))


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    tuned = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))
    flat = tuned.flatten()

    def merge():
        return Della()({"w": 0 * tuned, "v": 0 * flat}, {"x": {"w": tuned, "v": flat}, "y": {"w": -tuned, "v": flat}})

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = merge()
        torch.set_num_threads(threads)
        assert_same(merge(), single)
    finally:
        torch.set_num_threads(before)


def assert_same(merged, expected):
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_forms_dtypes_and_ties():
    weight = torch.zeros(4, 3, dtype=torch.bfloat16)
    base = {"b": weight, "a": weight, "empty": torch.zeros(0, 3), "steps": torch.tensor(3), "scalar": torch.tensor(0.0)}
    expert = {name: (tensor + 1).to(tensor.dtype) for name, tensor in base.items()}
    merged = Della()(base, {"one": expert})
    assert merged["a"] is merged["b"]
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["steps"] == 3


def test_a_row_of_one_value_is_kept_with_the_mean_probability():
    left = [drop(np.ones((1, 1)), 0.5, 0.4, seed).item() for seed in range(200)]
    assert set(left) == {0.0, 2.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_found_even_where_it_is_dropped(bad):
    expert = {"w": torch.zeros(30)}
    expert["w"][7] = bad
    for seed in range(5):
        with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'one'$"):
            Della(seed=seed)({"w": torch.zeros(30)}, {"one": expert, "two": {"w": torch.ones(30)}})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Della(density=0), r"Della: density must be in \(0, 1\].* 0"),
        (lambda: Della(window=-1), r"Della: window must be in \[0, 1\].* -1"),
        (lambda: Della(density=0.1, window=0.2), "density 0.1 .* got window 0.2"),
        (lambda: Della(density=0.95, window=0.2), "density 0.95 .* got window 0.2"),
        (lambda: Della(scaling="x"), "Della: scaling .* 'x'"),
        (lambda: Della(consensus="mean"), "Della: consensus .* 'mean'"),
        (lambda: Della(seed="0"), "Della: seed .* '0'"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
