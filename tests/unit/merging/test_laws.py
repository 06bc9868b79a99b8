"""The laws of merging, for every method they are true of, on tensors of every shape and kind."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_eval.merging import (
    Average,
    Breadcrumbs,
    ConsensusTaskArithmetic,
    Dare,
    Della,
    EmrMerging,
    IsoC,
    IsoCTS,
    KarcherMean,
    Knots,
    Lines,
    ModelStock,
    MultiSlerp,
    NuSlerp,
    PcbMerging,
    Sce,
    Slerp,
    TallMask,
    TaskArithmetic,
    Ties,
    TsvMerge,
    WudiMerging,
)

quick = settings(max_examples=12, deadline=None)

SCALED = [TaskArithmetic, Ties, Dare, Della, Breadcrumbs, Sce, PcbMerging, ConsensusTaskArithmetic, IsoC, IsoCTS]
SCALED += [TsvMerge, partial(WudiMerging, steps=2), Knots]
ALL = [method() for method in [*SCALED, Average, MultiSlerp, KarcherMean, ModelStock, EmrMerging, TallMask, Lines]]
ALL += [Slerp("a", "b"), NuSlerp("a", "b"), EmrMerging().variant("a"), TallMask().variant("b")]

UNTRIMMED = [
    TaskArithmetic(1.0),
    Ties(1.0, 1.0),
    Dare(1.0, 1.0),
    Della(1.0, 1.0, 0.0),
    Breadcrumbs(1.0, 1.0, 0.0),
    Sce(1.0, 1.0),
    Knots(1.0, 1.0, threshold=0.0),
    TsvMerge(1.0),
    EmrMerging(),
    EmrMerging().variant("a"),
    TallMask(0.0),
]
MEANS = [
    Average(),
    MultiSlerp(),
    KarcherMean(),
    MultiSlerp("zero"),
    KarcherMean("base"),
    Slerp("a", "b"),
    NuSlerp("a", "b"),
]
AGREEING = [*MEANS, ModelStock(), Ties(1.0, 1.0), Sce(1.0, 1.0), EmrMerging(), EmrMerging().variant("b")]
AGREEING += [
    Dare(1.0, 1.0, "ties"),
    Della(1.0, 1.0, 0.0),
    Breadcrumbs(1.0, 1.0, 0.0, "ties"),
    Knots(1.0, 1.0, threshold=0.0),
]

FORMS = {"w": (4, 3), "deep": (3, 2, 2), "bias": (5,), "scale": (), "none": (0, 2)}
values = st.floats(-8, 8, width=16)


@st.composite
def state_dicts(draw):
    floats = {
        name: torch.from_numpy(draw(arrays.arrays("float32", form, elements=values))) for name, form in FORMS.items()
    }
    return floats | {"steps": torch.tensor(draw(st.integers(0, 9))), "mask": torch.tensor([draw(st.booleans())])}


def floating(state_dict):
    return {name: tensor for name, tensor in state_dict.items() if tensor.is_floating_point()}


@quick
@given(state_dicts(), st.lists(state_dicts(), min_size=1, max_size=3))
@pytest.mark.parametrize("method", SCALED)
def test_scaling_0_is_the_base_to_the_bit(method, base, experts):
    merged = method(scaling=0)(base, dict(zip("abc", experts, strict=False)))
    torch.testing.assert_close(merged, base, rtol=0, atol=0)


@quick
@given(state_dicts(), state_dicts())
@pytest.mark.parametrize("method", UNTRIMMED, ids=str)
def test_all_of_one_expert_is_that_expert(method, base, expert):
    merged = method(base, {"a": expert})
    torch.testing.assert_close(floating(merged), floating(expert), rtol=1e-4, atol=1e-4)


@quick
@given(state_dicts(), state_dicts())
@pytest.mark.parametrize("method", AGREEING, ids=str)
def test_experts_that_are_all_equal_give_that_expert(method, base, expert):
    merged = method(base, dict.fromkeys("abc", expert))
    torch.testing.assert_close(floating(merged), floating(expert), rtol=1e-3, atol=1e-3)


@quick
@given(state_dicts(), st.lists(state_dicts(), min_size=2, max_size=3))
@pytest.mark.parametrize("method", ALL, ids=str)
def test_forms_kinds_and_integers_are_the_base_s(method, base, experts):
    tied = base | {"tied": base["w"]}
    named = {name: expert | {"tied": expert["w"]} for name, expert in zip("abc", experts, strict=False)}
    merged = method(tied, named)
    assert list(merged) == list(tied)
    assert merged["tied"] is merged["w"]
    for name, tensor in tied.items():
        assert (merged[name].shape, merged[name].dtype) == (tensor.shape, tensor.dtype)
    assert torch.equal(merged["steps"], base["steps"])
    assert torch.equal(merged["mask"], base["mask"])
