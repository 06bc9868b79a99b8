"""SCE against mergekit (tests/oracles) and a plain Python transcription of its steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging.sce import Sce


def assert_same(merged, expected, **tolerance):
    assert merged.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(merged[name], expected[name], **({"rtol": 0, "atol": 0} | tolerance))


def named(*vectors):
    return {str(i): {"w": torch.as_tensor(vector)} for i, vector in enumerate(vectors)}


@pytest.mark.parametrize(("recipe", "density"), [("sce_0.5", 0.5), ("sce_1", 1.0)])
def test_mergekit(base, experts, recipe, density, oracle):
    assert_same(Sce(density=density)(base, experts), oracle("mergekit.safetensors", recipe), rtol=1e-5, atol=1e-6)


def literal_sce(base, experts, scaling, density):
    """The docstring, one place at a time."""
    vectors = [[e - b for e, b in zip(expert, base, strict=True)] for expert in experts]
    variances = [float(np.var(column)) for column in zip(*vectors, strict=True)]
    smallest = sorted(variances, reverse=True)[max(1, int(density * np.count_nonzero(variances))) - 1]
    for vector in vectors:
        vector[:] = [v if variance >= smallest else 0.0 for v, variance in zip(vector, variances, strict=True)]
    weights = [sum(v * v for v in vector) for vector in vectors]
    merged = []
    for b, column in zip(base, zip(*vectors, strict=True), strict=True):
        pairs = [(w, v) for w, v in zip(weights, column, strict=True) if v * sum(column) > 0]
        merged.append(b + scaling * (sum(w * v for w, v in pairs) / sum(w for w, _ in pairs) if pairs else 0))
    return merged


@pytest.mark.parametrize("seed", range(6))
def test_the_steps_of_the_paper(seed):
    generator = np.random.default_rng(seed)
    base, *experts = generator.normal(size=(generator.integers(3, 7), 60))
    scaling, density = generator.uniform(-1, 2), generator.uniform(0.02, 1)
    as_tensors = [torch.from_numpy(expert).view(3, 20) for expert in experts]
    merged = Sce(scaling, density)({"w": torch.from_numpy(base).view(3, 20)}, named(*as_tensors))["w"]
    expected = literal_sce(list(base), [list(expert) for expert in experts], scaling, density)
    np.testing.assert_allclose(merged.flatten().numpy(), expected, rtol=1e-10)


def test_experts_weigh_by_their_energy_however_small_it_is():
    for size in (1.0, 1e-3, 1e-6):  # mergekit weighs equally from 1e-3 on
        merged = Sce(density=1.0)({"w": torch.zeros(1)}, named([3.0 * size], [1.0 * size]))["w"]
        assert float(merged) == pytest.approx((9 * 3 + 1) / 10 * size)


def test_experts_weigh_the_same_where_they_have_little_energy_if_it_is_asked_for():
    for size, expected in ((1.0, (9 * 3 + 1) / 10), (1e-4, 2e-4)):
        experts = named([3.0 * size] * 5, [1.0 * size] * 5)
        merged = Sce(density=1.0, equal_below=1e-6)({"w": torch.zeros(5)}, experts)["w"]
        torch.testing.assert_close(merged, torch.full((5,), expected))
    with pytest.raises(ConfigError, match="Sce: equal_below must not be negative, got -1"):
        Sce(equal_below=-1)


@settings(max_examples=20, deadline=None)
@given(density=st.floats(0.01, 1))
def test_scaling_0_is_the_base_and_no_order_matters(base, experts, density):
    assert_same(Sce(0, density)(base, experts), base)
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    assert_same(Sce(0.5, density)(dict(reversed(base.items())), backwards), Sce(0.5, density)(base, experts))


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_equal_experts_give_that_expert(base, experts, names):
    assert_same(Sce()(base, dict.fromkeys(names, experts["two"])), experts["two"], rtol=1e-6, atol=1e-7)
    assert_same(Sce()(base, dict.fromkeys(names, base)), base)


def test_places_without_variance_do_not_count():
    base = {"w": torch.zeros(10)}
    one, two = torch.zeros(10), torch.zeros(10)
    one[:4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert Sce(density=0.5)(base, named(one, two))["w"].tolist() == [4, 3, 0, 0, 0, 0, 0, 0, 0, 0]


def test_bits_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    base, *tuned = (torch.randn(300, 701, generator=generator) for _ in range(4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = Sce()({"w": base}, named(*tuned))
        torch.set_num_threads(3)
        assert_same(Sce()({"w": base}, named(*tuned)), single)
    finally:
        torch.set_num_threads(before)


def test_forms_dtypes_and_ties():
    weight = torch.ones(4, 3, dtype=torch.bfloat16)
    base = {"b": weight, "a": weight, "empty": torch.zeros(0), "steps": torch.tensor(3), "scalar": torch.tensor(2.0)}
    tuned = {name: (2 * tensor).to(tensor.dtype) for name, tensor in base.items()}
    merged = Sce()(base, {"one": tuned, "two": base})
    assert merged["a"] is merged["b"]
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["steps"] == 3
    assert merged["scalar"] == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad):
    for place in range(30):
        experts = named(torch.linspace(0, 1, 30), torch.ones(30))
        experts["1"]["w"][place] = bad
        with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert '1'$"):
            Sce()({"w": torch.zeros(30)}, experts)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sce(density=0), r"Sce: density must be in \(0, 1\].* 0"),
        (lambda: Sce(density=10), r"Sce: density .* 10"),
        (lambda: Sce(scaling="x"), "Sce: scaling .* 'x'"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
