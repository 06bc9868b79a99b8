"""Consensus task arithmetic and TALL masks: against FusionBench's masks, closed forms, and what must always hold."""

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import load_file

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import MergingMethod, TaskArithmetic
from fusion_eval.merging.tall_masks import ConsensusTaskArithmetic, TallMask

ROOT = Path(__file__).parents[3]
ORACLES = ROOT / "tests" / "oracles"
EXPERTS = ("one", "two", "three")
METHODS = [
    ConsensusTaskArithmetic(),
    ConsensusTaskArithmetic(0.7, 1, 0.2),
    TallMask().variant("one"),
    TallMask(0.1).variant("two"),
]
parametrize = pytest.mark.parametrize


def merge(method, base, **experts):
    return method({"w": base}, {name: {"w": tensor} for name, tensor in experts.items()})["w"]


@pytest.fixture(scope="module")
def models():
    tensors = load_file(ORACLES / "merging.safetensors")
    names = sorted(name.partition("/")[2] for name in tensors if name.startswith("base/"))
    return {model: {name: tensors[f"{model}/{name}"].double() for name in names} for model in ("base", *EXPERTS)}


def flat(state_dict):
    return torch.cat([tensor.flatten() for tensor in state_dict.values()])


def oracle_masks(selectivity):
    with safe_open(ORACLES / "tall_masks.safetensors", "pt") as file:
        return {name: file.get_tensor(f"{selectivity}/{name}").bool() for name in EXPERTS}


@parametrize("selectivity", [0.2, 0.4, 0.6, 1.5])
def test_masks_are_those_of_fusion_bench(models, selectivity):
    base, experts = models["base"], {name: models[name] for name in EXPERTS}
    total = sum(flat(expert) - flat(base) for expert in experts.values())
    masks = oracle_masks(selectivity)
    for name, mask in masks.items():
        merged = flat(TallMask(selectivity).variant(name)(base, experts))
        torch.testing.assert_close(merged, flat(base) + mask * total)
        assert 0 < mask.sum() < len(mask)
    for agreement in (1, 2, 3):
        wanted = torch.stack(list(masks.values())).sum(dim=0) >= agreement
        merged = flat(ConsensusTaskArithmetic(0.4, agreement, selectivity)(base, experts))
        torch.testing.assert_close(merged, flat(base) + 0.4 * wanted * total)


def test_selfish_and_catastrophic_parameters_stay_the_base_s():
    # shared, selfish, and opposite, which is catastrophic with much selectivity only
    one = torch.tensor([1.0, 3.0, 0.9])
    two = torch.tensor([1.2, 0.1, -1.0])
    base = torch.zeros(3)
    merged = merge(ConsensusTaskArithmetic(0.5, 2, 0.4), base, one=one, two=two)
    torch.testing.assert_close(merged, torch.tensor([1.1, 0.0, -0.05]))
    merged = merge(ConsensusTaskArithmetic(0.5, 2, 1.05), base, one=one, two=two)
    torch.testing.assert_close(merged, torch.zeros(3))
    merged = merge(ConsensusTaskArithmetic(0.5, 1, 1.15), base, one=one, two=two)
    torch.testing.assert_close(merged, torch.tensor([1.1, 1.55, 0.0]))


def test_as_near_to_the_sum_as_to_the_base_is_near_enough():
    expert = torch.tensor([1.0, -2.0])
    assert torch.equal(merge(TallMask(1.0).variant("one"), torch.zeros(2), one=expert, two=expert), 2 * expert)
    assert torch.equal(merge(ConsensusTaskArithmetic(1, 2, 1.0), torch.zeros(2), one=expert, two=expert), 2 * expert)
    assert torch.equal(merge(TallMask(1.01).variant("one"), torch.zeros(2), one=expert, two=expert), torch.zeros(2))


def test_more_agreement_than_experts_is_the_base():
    base = torch.randn(5)
    assert torch.equal(merge(ConsensusTaskArithmetic(1.0, 2), base, one=torch.randn(5)), base)
    assert torch.equal(merge(ConsensusTaskArithmetic(1.0, 3, 0.0), base, one=torch.randn(5), two=torch.randn(5)), base)


values = arrays.arrays("float32", (3, 4), elements=st.floats(-1e3, 1e3, width=32)).map(torch.from_numpy)
pools = st.lists(values, min_size=1, max_size=4).map(lambda found: {f"e{i}": one for i, one in enumerate(found)})
quick = settings(max_examples=50, deadline=None)


@quick
@given(values, pools, st.floats(-2, 2))
def test_without_selectivity_it_is_task_arithmetic(base, experts, scaling):
    same = merge(TaskArithmetic(scaling), base, **experts)
    assert torch.equal(merge(ConsensusTaskArithmetic(scaling, 1, 0.0), base, **experts), same)
    assert torch.equal(merge(ConsensusTaskArithmetic(scaling, len(experts), 0.0), base, **experts), same)


@quick
@given(values, values, st.floats(0, 10))
def test_one_expert_alone_is_recovered(base, expert, selectivity):
    recovered = merge(TallMask(selectivity).variant("one"), base, one=expert)
    assert torch.equal(recovered, base + (expert - base))


@quick
@given(values, pools, st.floats(0, 2), st.integers(1, 4))
def test_scaling_0_is_the_base(base, experts, selectivity, agreement):
    assert torch.equal(merge(ConsensusTaskArithmetic(0, agreement, selectivity), base, **experts), base)


@quick
@given(values, pools, st.floats(0, 2))
def test_each_value_is_the_base_s_or_the_sum_s(base, experts, selectivity):
    total = merge(TaskArithmetic(1.0), base, **experts)
    masked = [merge(TallMask(selectivity).variant(name), base, **experts) for name in experts]
    for merged in (*masked, merge(ConsensusTaskArithmetic(1.0, 2, selectivity), base, **experts)):
        assert ((merged == base) | (merged == total)).all()


@quick
@given(values, pools)
def test_more_selectivity_or_agreement_moves_fewer_parameters(base, experts):
    moved = [
        int((merge(ConsensusTaskArithmetic(1.0, agreement, selectivity), base, **experts) != base).sum())
        for agreement, selectivity in [(1, 0.1), (1, 0.5), (2, 0.5), (2, 0.9), (3, 0.9)]
    ]
    assert moved == sorted(moved, reverse=True)


@parametrize("method", METHODS)
def test_keys_dtypes_and_orders(method):
    weight = torch.randn(4, generator=torch.Generator().manual_seed(0))
    base = {"b": weight.half(), "s": torch.tensor(1.0), "n": torch.tensor(3), "e": torch.zeros(0, 2), "tied": weight}
    base["b2"] = base["b"]
    two = {name: tensor * 2 for name, tensor in base.items()}
    one = {name: tensor + 1 for name, tensor in base.items()}
    merged = method(base, {"two": two, "one": one})
    assert list(merged) == list(base)
    assert {name: (t.dtype, t.shape) for name, t in merged.items()} == {n: (t.dtype, t.shape) for n, t in base.items()}
    assert merged["b2"] is merged["b"]
    assert merged["n"] == 3
    other = method(base, {"one": dict(reversed(one.items())), "two": two})
    assert all(torch.equal(merged[name], other[name]) for name in base)
    full = method({"b": base["b"].float()}, {"one": {"b": one["b"].float()}, "two": {"b": two["b"].float()}})["b"]
    assert torch.equal(merged["b"], full.half())


@parametrize("method", METHODS)
@parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_with_its_expert(method, bad):
    broken = torch.ones(30)
    broken[7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'two'$"):
        merge(method, torch.zeros(30), one=torch.ones(30), two=broken)


def test_an_unknown_expert_is_named_with_those_there_are():
    with pytest.raises(MergeError, match=r"'mnits'; did you mean 'mnist'\? Known: mnist, svhn"):
        merge(TallMask().variant("mnits"), torch.zeros(1), mnist=torch.zeros(1), svhn=torch.zeros(1))


@parametrize("method", METHODS)
def test_no_expert(method):
    with pytest.raises(MergeError, match="no expert"):
        method({"w": torch.zeros(1)}, {})


@parametrize("method", METHODS)
def test_a_method_is_a_value(method):
    assert isinstance(method, MergingMethod)
    assert {method: 1}[type(method)(**vars(method))]


@parametrize(
    ("make", "text"),
    [
        (lambda: ConsensusTaskArithmetic(float("nan")), "ConsensusTaskArithmetic: scaling .* nan"),
        (lambda: ConsensusTaskArithmetic(agreement=0), r"agreement must be 1, 2, 3, \.\.\., got 0"),
        (lambda: ConsensusTaskArithmetic(agreement=2.0), r"agreement .* 2\.0"),
        (lambda: ConsensusTaskArithmetic(agreement=True), "agreement .* True"),
        (lambda: ConsensusTaskArithmetic(selectivity=-0.1), r"selectivity must not be negative, got -0\.1"),
        (lambda: ConsensusTaskArithmetic(selectivity=None), "selectivity .* None"),
        (lambda: TallMask(float("inf")), "TallMask: selectivity .* inf"),
        (lambda: TallMask("0.4"), "TallMask: selectivity .* '0.4'"),
    ],
)
def test_hyper_parameters_are_checked(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


@parametrize(
    ("name", "method"),
    [("consensus_task_arithmetic", ConsensusTaskArithmetic()), ("tall_mask", TallMask())],
)
def test_the_config_holds_the_defaults(name, method):
    config = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    assert config.pop("_target_") == f"fusion_eval.merging.{type(method).__name__}"
    assert config == vars(method)
