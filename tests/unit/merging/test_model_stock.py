"""Model Stock against mergekit (tests/oracles), its equation in NumPy, and the ends of its range."""

from itertools import combinations

import numpy as np
import pytest
import torch

from fusion_eval.errors import MergeError
from fusion_eval.merging import Average
from fusion_eval.merging.model_stock import ModelStock


def assert_same(merged, expected, **tolerance):
    assert merged.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(merged[name], expected[name], **({"rtol": 0, "atol": 0} | tolerance))


def named(*vectors):
    return {str(i): {"w": torch.as_tensor(vector)} for i, vector in enumerate(vectors)}


def test_mergekit(base, experts, oracle):
    assert_same(ModelStock()(base, experts), oracle("mergekit.safetensors", "model_stock"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_equation_of_the_paper(count):
    generator = np.random.default_rng(count)
    base, shared = generator.normal(size=(2, 8, 5))
    experts = base + shared + generator.normal(size=(count, 8, 5))
    merged = ModelStock()({"w": torch.from_numpy(base)}, named(*experts))["w"].numpy()
    vectors = (experts - base).reshape(count, -1)
    cosine = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)])
    t = count * cosine / (1 + (count - 1) * cosine)
    np.testing.assert_allclose(merged, t * experts.mean(axis=0) + (1 - t) * base, rtol=1e-10, atol=1e-13)


def test_two_experts_of_equal_length_meet_in_the_orthocentre_of_their_triangle_with_the_base():
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=(2, 40)) + 1
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    merged = ModelStock()({"w": torch.zeros(40).double()}, named(one, two))["w"].numpy()
    np.testing.assert_allclose([(merged - one) @ two, (merged - two) @ one], 0, atol=1e-12)


def test_experts_that_agree_give_their_mean_and_orthogonal_ones_the_base(base, experts):
    assert_same(ModelStock()(base, {"a": experts["one"], "b": experts["one"]}), experts["one"], rtol=1e-6, atol=1e-7)
    start = {"w": torch.tensor([1.0, 2.0])}
    parallel = named([2.0, 4.0], [4.0, 8.0])
    assert_same(ModelStock()(start, parallel), Average()(start, parallel))
    assert ModelStock()({"w": torch.zeros(2)}, named([5.0, 0.0], [0.0, 1.0]))["w"].tolist() == [0.0, 0.0]


def test_the_pole_is_the_base():
    start = {"w": torch.tensor([1.0, 2.0])}
    assert_same(ModelStock()(start, named([3.0, 2.0], [-4.0, 2.0])), start)
    three = named([2.0, 2.0], [0.5, 2 + 0.75**0.5], [0.5, 2 - 0.75**0.5])
    assert_same(ModelStock()(start, three), start)


def test_experts_that_are_the_base_give_the_base(base, experts):
    assert_same(ModelStock()(base, {"a": base, "b": base}), base)
    assert_same(ModelStock()(base, {"a": base, "b": experts["one"]}), base)  # a cosine of 0


def test_no_order_and_no_number_of_threads_matters(base, experts):
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    assert_same(ModelStock()(dict(reversed(base.items())), backwards), ModelStock()(base, experts))
    generator = torch.Generator().manual_seed(0)
    large = [torch.randn(300, 701, generator=generator) for _ in range(3)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = ModelStock()({"w": large[0]}, named(*large[1:]))
        torch.set_num_threads(3)
        assert_same(ModelStock()({"w": large[0]}, named(*large[1:])), single)
    finally:
        torch.set_num_threads(before)


def test_forms_dtypes_and_ties():
    weight = torch.ones(4, 3, dtype=torch.bfloat16)
    base = {"b": weight, "a": weight, "empty": torch.zeros(0), "steps": torch.tensor(3), "scalar": torch.tensor(2.0)}
    tuned = {name: (2 * tensor).to(tensor.dtype) for name, tensor in base.items()}
    merged = ModelStock()(base, {"one": tuned, "two": tuned})
    assert merged["a"] is merged["b"]
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["steps"] == 3
    assert merged["scalar"] == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad):
    experts = named(torch.ones(30), torch.ones(30))
    experts["1"]["w"][7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert '1'$"):
        ModelStock()({"w": torch.zeros(30)}, experts)


def test_one_expert_has_no_angle():
    with pytest.raises(MergeError, match="needs the angle between two experts or more, got one alone"):
        ModelStock()({"w": torch.zeros(2)}, {"one": {"w": torch.ones(2)}})
    with pytest.raises(MergeError, match="no expert"):
        ModelStock()({"w": torch.zeros(2)}, {})
