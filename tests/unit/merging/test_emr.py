"""EMR-Merging against its formulas in NumPy, and what must hold of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_eval.errors import MergeError
from fusion_eval.merging import EmrMerging, PerTaskMethod

parametrize = pytest.mark.parametrize
values = st.floats(-100, 100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)


def in_numpy(vectors, own):
    """The model vector of one task, of flat task vectors: shape `(n, d)`, float64."""
    sign = np.sign(vectors.sum(axis=0))
    unified = sign * np.max(np.where(vectors * sign > 0, np.abs(vectors), 0), axis=0)
    mask = vectors[own] * unified > 0
    kept = np.abs(unified * mask).sum()
    return (np.abs(vectors[own]).sum() / kept if kept else 1) * unified * mask


@settings(max_examples=60, deadline=None)
@given(arrays.arrays("float32", st.tuples(st.integers(1, 4), st.just(12)), elements=values), st.data())
def test_the_variant_is_the_paper_s_over_all_tensors_together(vectors, data):
    own = data.draw(st.integers(0, len(vectors) - 1))
    base = {"a": torch.zeros(2, 4, dtype=torch.float64), "b": torch.zeros(4, dtype=torch.float64)}
    experts = {
        str(i): {"a": torch.from_numpy(v[:8]).double().view(2, 4), "b": torch.from_numpy(v[8:]).double()}
        for i, v in enumerate(vectors)
    }
    merged = EmrMerging().variant(str(own))(base, experts)
    flat = torch.cat([merged["a"].flatten(), merged["b"]]).numpy()
    np.testing.assert_allclose(flat, in_numpy(vectors.astype("float64"), own), rtol=1e-9, atol=1e-9)


def test_what_is_kept_is_as_large_as_the_task_vector():
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(40, 30, generator=generator, dtype=torch.float64)} for _ in range(5))
    named = {str(i): expert for i, expert in enumerate(experts)}
    for name, expert in named.items():
        kept = EmrMerging().variant(name)(base, named)["w"] - base["w"]
        assert kept.abs().sum().item() == pytest.approx((expert["w"] - base["w"]).abs().sum().item())


def test_experts_that_do_not_interfere_are_recovered_exactly():
    base = {"w": torch.zeros(6)}
    experts = {
        "one": {"w": torch.tensor([1.0, -2.0, 0, 0, 0, 0])},
        "two": {"w": torch.tensor([0, 0, 3.0, 4.0, 0, 0])},
        "none": {"w": torch.zeros(6)},
    }
    assert EmrMerging()(base, experts)["w"].tolist() == [1, -2, 3, 4, 0, 0]
    for name, expert in experts.items():
        assert torch.equal(EmrMerging().variant(name)(base, experts)["w"], expert["w"])


def test_one_expert_is_that_expert():
    base, expert = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.5, 2.0])}
    assert torch.equal(EmrMerging()(base, {"one": expert})["w"], expert["w"])
    assert torch.equal(EmrMerging().variant("one")(base, {"one": expert})["w"], expert["w"])


def test_it_has_a_model_for_each_task_and_names_unknown_ones():
    assert isinstance(EmrMerging(), PerTaskMethod)
    tensors = {"w": torch.zeros(1)}
    with pytest.raises(MergeError, match="no expert 'mnits'; did you mean 'mnist'"):
        EmrMerging().variant("mnits")(tensors, {"mnist": tensors, "svhn": tensors})


@parametrize("method", [EmrMerging(), EmrMerging().variant("two")])
def test_not_finite_is_named(method):
    base, bad = {"w": torch.zeros(3)}, {"w": torch.tensor([1.0, torch.nan, 2.0])}
    with pytest.raises(MergeError, match="'w' holds NaN or Inf: it already is so in expert 'one'"):
        method(base, {"one": bad, "two": {"w": torch.ones(3)}})
