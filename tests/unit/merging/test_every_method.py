"""What is true of every merging method in conf/model, on a model with tensors of every kind (see tests/support)."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from merging_methods import METHODS, Network, make_methods, models

from fusion_eval.errors import MergeError

TWO_AT_LEAST = {"model_stock", "nuslerp"}
COPIES = {"base", "expert"}
MEASURED = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")  # by `recalibrated`


def floating(state):
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def cast(state, dtype):
    """To another dtype; what is tied stays so."""
    made = {id(tensor): tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in state.values()}
    return {name: made[id(tensor)] for name, tensor in state.items()} | {
        "tied.weight": made[id(state["head.weight"])],
        "tied.bias": made[id(state["head.bias"])],
    }


def is_finite(state):
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


def assert_equal(merged, expected, **tolerance):
    torch.testing.assert_close(merged, dict(expected), **({"rtol": 0, "atol": 0} | tolerance))


def test_the_result_has_the_form_of_the_base_and_shares_no_memory(option):
    base, experts = models()
    before = {name: tensor.clone() for name, tensor in base.items()}
    merged = METHODS[option](base, experts)
    assert list(merged) == list(base)
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["tied.weight"] is merged["head.weight"]
    assert is_finite(merged)
    for tensor in merged.values():
        tensor.zero_()
    assert_equal(base, before)


def test_experts_equal_to_the_base_give_the_base(option):
    base, _ = models()
    copies = {name: {key: tensor.clone() for key, tensor in base.items()} for name in ("one", "two", "three")}
    merged = METHODS[option](base, copies)
    same = {name for name in base if option != "recalibrated" or name not in MEASURED}
    assert_equal({name: merged[name] for name in same}, {name: base[name] for name in same}, rtol=1e-5, atol=1e-6)


def test_one_expert_is_enough_or_refused(option):
    base, experts = models(["one"])
    method = make_methods(["one"])[option]
    if option in TWO_AT_LEAST:
        with pytest.raises(MergeError, match="one"):
            method(base, experts)
    else:
        assert is_finite(method(base, experts))


def test_thirty_experts(option):
    names = ["one", "two", *(f"expert {place}" for place in range(28))]
    base, experts = models(names)
    assert is_finite(make_methods(names)[option](base, experts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_computed_in_float32_or_more_and_rounded_once(option, dtype):
    base, experts = models()
    base, experts = cast(base, dtype), {name: cast(expert, dtype) for name, expert in experts.items()}
    wide = torch.promote_types(dtype, torch.float32)
    merged = METHODS[option](base, experts)
    full = METHODS[option](cast(base, wide), {name: cast(expert, wide) for name, expert in experts.items()})
    assert_equal(merged, cast(full, dtype))


def test_every_expert_may_have_a_dtype_of_its_own(option):
    base, experts = models()
    dtypes = {"one": torch.bfloat16, "two": torch.float64, "three": torch.float16}
    mixed = {name: cast(experts[name], dtype) for name, dtype in dtypes.items()}
    merged = METHODS[option](base, mixed)
    assert {name: tensor.dtype for name, tensor in merged.items()} == {name: t.dtype for name, t in base.items()}
    expected = METHODS[option](cast(base, torch.float64), {n: cast(e, torch.float64) for n, e in mixed.items()})
    assert_equal(merged, cast(expected, torch.float32), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["long", "blocks.0.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_in_an_expert_is_refused(option, name, bad):
    base, experts = models()
    experts["one"][name].view(-1)[0] = bad
    if option == "base":
        assert_equal(METHODS[option](base, experts), base)
        return
    with pytest.raises(MergeError, match="'one'"):
        METHODS[option](base, experts)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda expert: expert.pop("scale"), "1 missing: scale"),
        (lambda expert: expert.update(new=torch.zeros(1)), "1 unexpected: new"),
        (lambda expert: expert.update(long=torch.zeros(6)), r"long is \(6,\), not \(5,\)"),
        (lambda expert: expert.update(long=torch.zeros(5, dtype=torch.int8)), "long is torch.int8, not torch.float32"),
    ],
    ids=["missing", "unexpected", "shape", "kind"],
)
def test_an_expert_that_does_not_fit_is_refused(option, change, text):
    base, experts = models()
    change(experts["one"])
    if option == "base":
        assert_equal(METHODS[option](base, experts), base)
        return
    with pytest.raises(MergeError, match=f"'one' does not fit the base: .*{text}"):
        METHODS[option](base, experts)


def test_complex_tensors_are_refused_by_name(option):
    architecture = partial(Network, phase=True)
    base, experts = models(architecture=architecture)
    method = make_methods(architecture=architecture)[option]
    if option in COPIES:
        assert method(base, experts)["phase"].dtype == torch.complex64
        return
    with pytest.raises(MergeError, match=r"'phase' is torch\.complex64: only real tensors"):
        method(base, experts)


@pytest.mark.parametrize(
    "form",
    [{}, {"scale": ()}, {"scale": (), "bias": (1,)}, {"empty": (0, 3)}, {"empty": (0,), "matrix": (1, 1)}],
    ids=["nothing", "0-d", "one value", "empty", "1 x 1"],
)
def test_the_smallest_models(data_free, form):
    generator = torch.Generator().manual_seed(0)

    def model():
        return {name: torch.randn(shape, generator=generator) for name, shape in form.items()}

    merged = METHODS[data_free](model(), {name: model() for name in ("one", "two", "three")})
    assert {name: tuple(tensor.shape) for name, tensor in merged.items()} == form
    assert is_finite(merged)


def test_how_tensors_lie_in_memory_is_immaterial(data_free):
    generator = torch.Generator().manual_seed(0)

    def model():
        rows = torch.randn(9, 6, generator=generator)
        return {"t": rows.T, "every other": rows[::2], "expanded": rows[:1].expand(4, 6), "part": rows[2:4, 1:3]}

    base, experts = model(), {name: model() for name in ("one", "two", "three")}
    dense = [{name: tensor.contiguous().clone() for name, tensor in one.items()} for one in (base, *experts.values())]
    expected = METHODS[data_free](dense[0], dict(zip(experts, dense[1:], strict=True)))
    assert_equal(METHODS[data_free](base, experts), expected)


def test_a_scaling_of_0_is_the_base_to_the_bit(scaled):
    base, experts = models()
    assert_equal(replace(METHODS[scaled], scaling=0.0)(base, experts), base)


def test_another_seed_makes_another_merge(seeded):
    base, experts = models()
    first, again, other = (replace(METHODS[seeded], seed=seed)(base, experts) for seed in (1, 1, 2))
    assert_equal(first, again)
    assert any(not torch.equal(first[name], other[name]) for name in base)
