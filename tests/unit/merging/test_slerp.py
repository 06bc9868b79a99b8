"""The spherical merges against SciPy and mergekit (tests/oracles), and what holds of any arc."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial import geometric_slerp

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average
from fusion_eval.merging.geometry import inner
from fusion_eval.merging.slerp import NuSlerp, Slerp
from fusion_eval.merging.spherical_mean import KarcherMean, MultiSlerp

ORACLES = Path(__file__).parents[2] / "oracles"
MEANS = [MultiSlerp("base"), MultiSlerp("zero"), KarcherMean("base"), KarcherMean("zero")]
PAIRS = [
    Slerp("two"),
    Slerp("two", "one", 0.3),
    NuSlerp("one", "two"),
    NuSlerp("one", "two", 0.3, "rows"),
    NuSlerp("one", "two", 0.3, "columns"),
]
METHODS = [*MEANS, *PAIRS]
parametrize = pytest.mark.parametrize


def assert_same(merged, expected, **tolerance):
    assert merged.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(merged[name], expected[name], **({"rtol": 0, "atol": 0} | tolerance))


def pair(*vectors):
    return {
        name: {"w": torch.as_tensor(vector)} for name, vector in zip(("one", "two", "three"), vectors, strict=False)
    }


@parametrize(
    ("recipe", "method"),
    [
        ("slerp", Slerp("three", "one", 0.3)),
        ("nuslerp", NuSlerp("one", "three", 0.3)),
        ("nuslerp_rows", NuSlerp("one", "three", 0.3, "rows")),
        ("nuslerp_columns", NuSlerp("one", "three", 0.3, "columns")),
        ("multislerp", MultiSlerp()),
        ("multislerp_from_zero", MultiSlerp("zero")),
        ("karcher", KarcherMean()),
    ],
)
def test_mergekit(base, experts, recipe, method, oracle):
    assert_same(method(base, experts), oracle("mergekit.safetensors", recipe), rtol=1e-5, atol=1e-6)


@parametrize("t", [0.0, 0.1, 0.5, 0.93, 1.0])
@parametrize("seed", range(3))
def test_slerp_of_directions_is_that_of_scipy(seed, t):
    start, end = np.random.default_rng(seed).normal(size=(2, 12))
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    expected = geometric_slerp(start, end, t)
    zero = {"w": torch.zeros(3, 4).double()}
    experts = pair(start.reshape(3, 4), end.reshape(3, 4))
    for method in (Slerp("two", "one", t), NuSlerp("one", "two", t)):
        np.testing.assert_allclose(method(zero, experts)["w"].numpy().ravel(), expected, rtol=0, atol=1e-14)
    from_base = Slerp("two", t=t)(experts["one"], experts)
    np.testing.assert_allclose(from_base["w"].numpy().ravel(), expected, rtol=0, atol=1e-14)


@parametrize(("along", "axis"), [("rows", 1), ("columns", 0)])
def test_every_row_or_column_turns_alone(along, axis):
    start, end = np.random.default_rng(0).normal(size=(2, 5, 7))
    merged = NuSlerp("one", "two", 0.4, along)({"w": torch.zeros(5, 7).double()}, pair(start, end))["w"].numpy()
    for i in range(merged.shape[1 - axis]):
        one, two = start.take(i, 1 - axis), end.take(i, 1 - axis)
        alone = NuSlerp("one", "two", 0.4)({"w": torch.zeros(len(one)).double()}, pair(one, two))["w"].numpy()
        np.testing.assert_allclose(merged.take(i, 1 - axis), alone, rtol=1e-13)


@parametrize("seed", range(3))
def test_the_karcher_mean_minimises_the_squared_angles(seed):
    vectors = np.random.default_rng(seed).normal(size=(4, 5)) + 1.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def cost(point):
        return (np.arccos(units @ point / np.linalg.norm(point)) ** 2).sum()

    experts = {str(i): {"w": torch.from_numpy(vector)} for i, vector in enumerate(vectors)}
    ours = KarcherMean()({"w": torch.zeros(5).double()}, experts)["w"].numpy()
    best = minimize(cost, units.mean(axis=0), tol=1e-14).x
    np.testing.assert_allclose(ours / np.linalg.norm(ours), best / np.linalg.norm(best), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours), np.linalg.norm(vectors, axis=1).mean(), rtol=1e-12)
    assert cost(ours) <= cost(best) + 1e-12


def test_of_two_directions_the_means_are_half_of_the_arc():
    start, end = np.random.default_rng(0).normal(size=(2, 6))
    experts = pair(start / np.linalg.norm(start), end / np.linalg.norm(end))
    zero = {"w": torch.zeros(6).double()}
    half = Slerp("two", "one")(zero, experts)
    for method in MEANS:
        assert_same(method(zero, experts), half, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(t=st.floats(-0.5, 1.5), seed=st.integers(0, 2**32 - 1), gap=st.sampled_from([1e-7, 1e-5, 1e-3, 0.1, 1.0]))
def test_the_length_stays_on_the_arc_however_narrow(t, seed, gap):
    generator = np.random.default_rng(seed)
    start = generator.normal(size=20)
    end = start + gap * generator.normal(size=20)
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    merged = Slerp("two", "one", t)({"w": torch.zeros(20).double()}, pair(start, end))["w"].numpy()
    np.testing.assert_allclose(np.linalg.norm(merged), np.linalg.norm(start), rtol=1e-11)


def test_the_ends(base, experts):
    assert_same(Slerp("two", t=0)(base, experts), base)
    assert_same(Slerp("two", t=1)(base, experts), experts["two"], rtol=1e-6, atol=1e-7)
    for along in ("tensor", "rows", "columns"):
        for t, name in ((0, "one"), (1, "two")):
            merged = NuSlerp("one", "two", t, along)(base, experts)
            assert_same(merged, experts[name], rtol=1e-6, atol=1e-7)


@parametrize("method", [*MEANS, *PAIRS[1:]])
def test_equal_experts_give_that_expert(method, base, experts):
    merged = method(base, dict.fromkeys(("one", "two", "three"), experts["three"]))
    assert_same(merged, experts["three"], rtol=1e-6, atol=1e-7)


@parametrize("method", METHODS)
def test_experts_that_are_the_base_give_the_base(method, base):
    assert_same(method(base, {"one": base, "two": base}), base, rtol=1e-6, atol=1e-8)


@parametrize("method", MEANS)
def test_opposite_vectors_have_the_plain_mean(method):
    zero = {"w": torch.zeros(2)}
    opposite = pair([3.0, 4.0], [-9.0, -12.0])
    assert_same(method(zero, opposite), Average()(zero, opposite))
    outvoted = method(zero, pair([3.0, 4.0], [3.0, 4.0], [-3.0, -4.0]))
    assert outvoted["w"].tolist() == pytest.approx([3.0, 4.0])
    three = pair([1.0, 0.0], [-0.5, 0.75**0.5], [-1.0, -(3**0.5)])
    assert_same(method(zero, three), Average()(zero, three), rtol=1e-6, atol=1e-6)


def test_opposite_or_missing_directions_have_the_straight_line():
    zero = {"w": torch.zeros(2)}
    assert NuSlerp("one", "two", 0.25)(zero, pair([1.0, 0.0], [-1.0, 0.0]))["w"].tolist() == [0.5, 0.0]
    assert NuSlerp("one", "two", 0.25)(zero, pair([1.0, 0.0], [0.0, 0.0]))["w"].tolist() == [0.75, 0.0]


def test_an_expert_without_a_direction_shortens_the_mean_and_does_not_turn_it():
    zero = {"w": torch.zeros(2)}
    for method in MEANS:
        merged = method(zero, pair([3.0, 0.0], [0.0, 3.0], [0.0, 0.0]))
        assert merged["w"].tolist() == pytest.approx([2**0.5, 2**0.5])


@parametrize("method", METHODS)
def test_no_order_matters(method, base, experts):
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    assert_same(method(dict(reversed(base.items())), backwards), method(base, experts))


@parametrize("method", METHODS)
def test_bits_do_not_depend_on_the_number_of_threads(method):
    generator = torch.Generator().manual_seed(0)
    base, *tuned = (torch.randn(300, 701, generator=generator) for _ in range(3))
    experts = pair(*(base + 0.1 * tensor for tensor in tuned))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = method({"w": base}, experts)
        torch.set_num_threads(3)
        assert_same(method({"w": base}, experts), single)
    finally:
        torch.set_num_threads(before)


def test_inner_products_are_bit_equal_in_float64_for_any_number_of_threads():
    vectors = torch.randn(8, 400_003, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([inner(one, one).item() for one in vectors] + inner(vectors, vectors).squeeze().tolist())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    np.testing.assert_allclose(found[0], 2 * (vectors.numpy() ** 2).sum(axis=1).tolist(), rtol=1e-12)


@parametrize("method", METHODS)
def test_forms_dtypes_and_ties(method):
    weight = torch.ones(4, 3, dtype=torch.bfloat16)
    base = {
        "b": weight,
        "a": weight,
        "empty": torch.zeros(0, 3),
        "steps": torch.tensor(3),
        "scalar": torch.tensor(2.0),
        "kernel": torch.ones(2, 3, 4, 5),
        "transposed": torch.ones(3, 2).T,
    }
    tuned = {name: (2 * tensor).to(tensor.dtype) for name, tensor in base.items()}
    merged = method(base, {"one": tuned, "two": tuned})
    assert merged["a"] is merged["b"]
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["steps"] == 3
    assert merged["scalar"] == (3 if method == Slerp("two") else 4)


@parametrize("method", METHODS)
@parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(method, bad):
    experts = pair(torch.ones(30), torch.ones(30))
    experts["two"]["w"][7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'two'$"):
        method({"w": torch.zeros(30)}, experts)


@parametrize("method", PAIRS)
def test_an_unknown_expert_is_named(method):
    with pytest.raises(MergeError, match=r"no expert '(one|two)'.* Known: twoo"):
        method({"w": torch.zeros(2)}, {"twoo": {"w": torch.zeros(2)}})


@parametrize(
    ("make", "text"),
    [
        (lambda: Slerp("a", t=None), "Slerp: t must be a finite number, got None"),
        (lambda: NuSlerp("a", "b", "x"), "NuSlerp: t .* 'x'"),
        (lambda: NuSlerp("a", "b", along="row"), 'NuSlerp: along must be "tensor", "rows" or "columns", got \'row\''),
        (lambda: MultiSlerp("one"), 'MultiSlerp: origin must be "base" or "zero", got \'one\''),
        (lambda: KarcherMean(None), "KarcherMean: origin .* None"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
