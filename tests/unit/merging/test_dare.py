"""DARE against a plain NumPy transcription of its equations, the law of large numbers, and the methods it becomes.

mergekit and FusionBench draw from global generators, so their drops cannot be repeated here: what they share with ours,
the merge of what was kept, is compared given the same drops.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import TaskArithmetic, Ties
from fusion_eval.merging.dare import Dare


def kept(name, shape, density, seed=0):
    """Which values of the tensor "w" an expert keeps: seen by merging it alone, all ones, into zeros."""
    return Dare(1.0, density, seed=seed)({"w": torch.zeros(shape)}, {name: {"w": torch.ones(shape)}})["w"].numpy() != 0


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_the_equations_of_the_paper(density, consensus):
    shape, names = (40, 25), ("a", "b", "c")
    generator = np.random.default_rng(0)
    base = generator.normal(size=shape)
    experts = {name: base + generator.normal(size=shape) for name in names}
    merged = Dare(0.7, density, consensus)(
        {"w": torch.from_numpy(base)}, {name: {"w": torch.from_numpy(expert)} for name, expert in experts.items()}
    )["w"]
    vectors = [kept(name, shape, density) * (experts[name] - base) / density for name in names]
    expected = base.copy()
    for at in np.ndindex(shape):
        values = [vector[at] for vector in vectors]
        if consensus == "ties":
            values = [value for value in values if value * sum(values) > 0]
            expected[at] += 0.7 * np.mean(values) if values else 0
        else:
            expected[at] += 0.7 * sum(values)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("density", [0.1, 0.37, 0.9])
def test_the_share_kept_is_binomial_and_independent_of_the_neighbour_the_expert_and_the_seed(density):
    masks = [kept("one", 20_000, density), kept("two", 20_000, density), kept("one", 20_000, density, seed=1)]
    for mask in masks:
        assert stats.binomtest(int(mask.sum()), mask.size, density).pvalue > 1e-4
    for mask, other in [(masks[0], masks[1]), (masks[0], masks[2]), (masks[0][1:], masks[0][:-1])]:
        assert stats.chi2_contingency(np.histogram2d(mask, other, bins=2)[0]).pvalue > 1e-4


def test_the_expectation_is_task_arithmetic():
    base, one = torch.zeros(50), torch.linspace(-1, 1, 50)
    merged = torch.stack([Dare(0.3, 0.5, seed=s)({"w": base}, {"one": {"w": one}})["w"] for s in range(400)])
    error = (merged.mean(dim=0) - 0.3 * one).abs()
    assert (error <= 4.5 * 0.3 * one.abs() / 400**0.5 + 1e-6).all()  # the standard error of 400 fair drops


def test_the_l1_norm_that_mergekit_restores_would_shrink_the_largest_value():
    vector = torch.tensor([8.0, 1.0, 1.0])
    zero = {"w": torch.zeros(3)}
    ours = torch.stack([Dare(1.0, 0.5, seed=seed)(zero, {"one": {"w": vector}})["w"] for seed in range(400)])
    mergekit = (ours * vector.sum() / ours.sum(dim=1, keepdim=True)).nan_to_num()
    assert abs(float(ours.mean(dim=0)[0]) - 8) < 4.5 * 8 / 400**0.5
    assert float(mergekit.mean(dim=0)[0]) < 0.7 * 8


def test_nothing_dropped(base, experts):
    torch.testing.assert_close(Dare(0.4, 1.0)(base, experts), TaskArithmetic(0.4)(base, experts), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(Dare(0.4, 1.0, "ties")(base, experts), Ties(0.4, 1.0)(base, experts), rtol=0, atol=0)


@settings(max_examples=15, deadline=None)
@given(density=st.floats(0.01, 1), seed=st.integers(-(2**70), 2**70), consensus=st.sampled_from(["sum", "ties"]))
def test_scaling_0_is_the_base_and_no_order_matters(base, experts, density, seed, consensus):
    assert_same(Dare(0, density, consensus, seed)(base, experts), base)
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    method = Dare(0.5, density, consensus, seed)
    merged = method(dict(reversed(base.items())), backwards)
    assert list(merged) == list(reversed(base))
    assert_same(merged, method(base, experts))


def assert_same(merged, expected):
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert merged.keys() == expected.keys()


def test_an_expert_is_dropped_from_alike_whoever_else_is_merged(base, experts):
    zero = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    alone = Dare(1.0, 0.3)(zero, {"two": experts["two"]})
    beside = Dare(1.0, 0.3)(zero, {"two": experts["two"], "one": zero, "three": zero})
    assert_same(beside, alone)


def test_tied_weights_are_drawn_for_once_whatever_the_order_of_their_names():
    weight, tuned = torch.zeros(100), torch.ones(100)
    merged = Dare()({"b": weight, "a": weight}, {"one": {"b": tuned, "a": tuned}})
    other = Dare()({"a": weight, "b": weight}, {"one": {"a": tuned, "b": tuned}})
    assert merged["a"] is merged["b"]
    assert torch.equal(merged["a"], other["a"])


SCRIPT = """
import sys, torch, hashlib
from fusion_eval.merging.dare import Dare
torch.set_num_threads(int(sys.argv[1]))
tuned = torch.arange(200_000.0).view(400, 500)
merged = Dare(0.3, 0.4, "ties", seed=5)({"w": torch.zeros(400, 500)}, {"x": {"w": tuned}, "y": {"w": -tuned}})["w"]
print(hashlib.sha256(merged.numpy().tobytes()).hexdigest())
"""


def test_bits_are_equal_across_processes_hash_seeds_and_threads():
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, threads],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, hash_seed in [("1", "0"), ("2", "1")]
    ]
    assert runs[0] == runs[1]


def test_forms_and_dtypes():
    base = {
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 3),
        "steps": torch.tensor(3),
        "half": torch.zeros(5, dtype=torch.bfloat16),
    }
    expert = {name: (tensor + 1).to(tensor.dtype) for name, tensor in base.items()}
    merged = Dare(1.0, 1.0)(base, {"one": expert})
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["scalar"] == 2
    assert merged["half"].tolist() == [1.0] * 5
    assert merged["steps"] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_what_is_not_finite_is_found_even_where_it_is_dropped(consensus, bad):
    expert = {"w": torch.zeros(30)}
    expert["w"][7] = bad
    for seed in range(5):
        with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'one'$"):
            Dare(1.0, 0.1, consensus, seed)({"w": torch.zeros(30)}, {"one": expert, "two": {"w": torch.ones(30)}})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Dare(density=0), r"Dare: density must be in \(0, 1\].* 0"),
        (lambda: Dare(density=90), r"density .* 90"),
        (lambda: Dare(scaling=None), "Dare: scaling .* None"),
        (lambda: Dare(consensus="linear"), 'Dare: consensus must be "sum" or "ties", got \'linear\''),
        (lambda: Dare(seed=0.5), "Dare: seed must be an integer, got 0.5"),
        (lambda: Dare(seed=True), "seed .* True"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
