"""What must hold of every merge, whatever the weights."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_eval.merging import Average, Base, Expert, TaskArithmetic, Ties

quick = settings(max_examples=40, deadline=None)

METHODS = [Average(), TaskArithmetic(0.7), Ties(), Ties(0.5, 0.6, "tensor")]
values = st.floats(-1e3, 1e3, width=32)
shapes = st.sampled_from([(), (1,), (7,), (3, 4), (0, 2), (2, 3, 2)])


@st.composite
def models(draw, most_experts=4):
    form = draw(st.dictionaries(st.sampled_from(["a.weight", "a.bias", "scale", "b.0.weight"]), shapes, min_size=1))

    def state_dict():
        return {
            name: torch.from_numpy(draw(arrays.arrays("float32", shape, elements=values)))
            for name, shape in form.items()
        }

    return state_dict(), {f"expert {i}": state_dict() for i in range(draw(st.integers(1, most_experts)))}


def assert_equal(actual, expected, **tolerance):
    assert list(actual) == list(expected)
    torch.testing.assert_close(actual, expected, **tolerance)


@quick
@given(models())
def test_scaling_0_is_the_base(pool):
    base, experts = pool
    for method in (Average(0), TaskArithmetic(0), Ties(0), Ties(0, 0.5, "tensor"), Base()):
        assert_equal(method(base, experts), base, rtol=0, atol=0)


@quick
@given(models(), st.integers(1, 5))
def test_average_of_one_expert_many_times_is_that_expert(pool, times):
    base, experts = pool
    expert = experts["expert 0"]
    assert_equal(Average()(base, {str(i): expert for i in range(times)}), expert, rtol=1e-6, atol=1e-6)


@quick
@given(models(), st.floats(-1, 2))
def test_average_is_task_arithmetic_with_scaling_over_the_experts(pool, scaling):
    base, experts = pool
    same = TaskArithmetic(scaling / len(experts))(base, experts)
    assert_equal(Average(scaling)(base, experts), same, rtol=1e-5, atol=2e-3)


@quick
@given(models())
def test_average_is_the_mean_to_the_bit(pool):
    base, experts = pool
    mean = {name: torch.stack([expert[name] for expert in experts.values()]).mean(dim=0) for name in base}
    assert_equal(Average()(base, experts), mean, rtol=0, atol=0)


@quick
@given(models(most_experts=1), st.sampled_from(["global", "tensor"]))
def test_untrimmed_ties_of_one_expert_is_task_arithmetic(pool, trim):
    base, experts = pool
    assert_equal(Ties(0.4, 1.0, trim)(base, experts), TaskArithmetic(0.4)(base, experts), rtol=0, atol=0)


@quick
@given(models(), st.randoms())
@pytest.mark.parametrize("method", METHODS)
def test_no_order_matters(method, pool, rng):
    base, experts = pool

    def shuffled(mapping):
        items = list(mapping.items())
        rng.shuffle(items)
        return dict(items)

    other = method(shuffled(base), {name: shuffled(expert) for name, expert in shuffled(experts).items()})
    assert_equal({name: other[name] for name in base}, method(base, experts), rtol=0, atol=0)


@quick
@given(models(), st.randoms())
@pytest.mark.parametrize("method", [Average(), TaskArithmetic(0.7)])  # TIES may elect another sign of an exact tie
def test_names_of_experts_matter_only_by_rounding(method, pool, rng):
    base, experts = pool
    names = list(experts)
    rng.shuffle(names)
    renamed = dict(zip(names, experts.values(), strict=True))
    assert_equal(method(base, renamed), method(base, experts), rtol=1e-5, atol=2e-3)


@quick
@given(models())
@pytest.mark.parametrize("method", [*METHODS, Base(), Expert("expert 0")])
def test_arguments_are_neither_changed_nor_shared(method, pool):
    base, experts = pool
    before = {name: tensor.clone() for name, tensor in base.items()}
    experts_before = {key: {name: t.clone() for name, t in expert.items()} for key, expert in experts.items()}
    merged = method(base, experts)
    for tensor in merged.values():
        tensor.add_(1)
    assert_equal(base, before)
    assert_equal(experts, experts_before)


@quick
@given(models(), st.floats(0.01, 1.0))
def test_trimming_keeps_exactly_the_largest(pool, density):
    base, experts = pool
    zero = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    expert = experts["expert 0"]
    flat = torch.cat([tensor.flatten() for tensor in expert.values()]).abs()
    merged = Ties(1.0, density)(zero, {"one": expert})
    kept = torch.cat([tensor.flatten() for tensor in merged.values()]).abs()
    if len(flat):
        smallest = flat.sort(descending=True).values[max(1, int(density * len(flat))) - 1]
        torch.testing.assert_close(kept, torch.where(flat >= smallest, flat, 0), rtol=0, atol=0)


def test_trimming_a_million_parameters_is_exact():
    generator = torch.Generator().manual_seed(0)
    expert = {f"layer {i}": torch.randn(1000, 100, generator=generator) for i in range(10)}
    zero = {name: torch.zeros_like(tensor) for name, tensor in expert.items()}
    merged = Ties(1.0, 0.123456)(zero, {"one": expert})
    assert sum(int((tensor != 0).sum()) for tensor in merged.values()) == 123_456


def literal_ties(base, experts, scaling, density):
    """TIES-Merging (arXiv 2306.01708) written out, one parameter at a time, in Python's float64."""
    vectors = [[e - b for e, b in zip(expert, base, strict=True)] for expert in experts]
    trimmed = []
    for vector in vectors:
        smallest = sorted(map(abs, vector), reverse=True)[max(1, int(density * len(vector))) - 1]
        trimmed.append([value if abs(value) >= smallest else 0.0 for value in vector])
    merged = []
    for b, column in zip(base, zip(*trimmed, strict=True), strict=True):
        mass = sum(column)
        agreeing = [value for value in column if value * mass > 0]
        merged.append(b + scaling * sum(agreeing) / max(1, len(agreeing)))
    return merged


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_too_large_for_one_slice_merges_like_its_rows(method):
    generator = torch.Generator().manual_seed(0)
    base, *experts = (torch.randn(7, 20_001, generator=generator) for _ in range(4))
    whole = method({"w": base}, {str(i): {"w": expert} for i, expert in enumerate(experts)})["w"]
    if isinstance(method, Ties):  # trim outside, as rows trimmed alone would keep other values
        vectors = torch.stack(experts) - base
        smallest = vectors.abs().flatten(1).sort(descending=True).values[:, int(method.density * base.numel()) - 1]
        experts = base + vectors * (vectors.abs() >= smallest.view(-1, 1, 1))
        method = Ties(method.scaling, 1.0)
    for row in range(7):
        merged = method({"w": base[row]}, {str(i): {"w": expert[row]} for i, expert in enumerate(experts)})["w"]
        torch.testing.assert_close(whole[row], merged)


@pytest.mark.parametrize("seed", range(5))
def test_ties_equals_the_algorithm_of_the_paper(seed):
    rng = random.Random(seed)
    base, *experts = [[rng.gauss(0, 1) for _ in range(60)] for _ in range(1 + rng.randint(1, 5))]
    scaling, density = rng.uniform(-1, 2), rng.uniform(0.05, 1)
    as_state_dict = [{"w": torch.tensor(values, dtype=torch.float64).view(3, 20)} for values in (base, *experts)]
    merged = Ties(scaling, density)(as_state_dict[0], {str(i): e for i, e in enumerate(as_state_dict[1:])})
    torch.testing.assert_close(
        merged["w"].flatten(), torch.tensor(literal_ties(base, experts, scaling, density), dtype=torch.float64)
    )
