"""Dtypes, ties, and every way a merge is refused."""

import pickle
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, Base, Expert, MergingMethod, TaskArithmetic, Ties

MERGES = [Average(), TaskArithmetic(), Ties(), Ties(trim="tensor")]
ALL = [*MERGES, Base(), Expert("one")]
parametrize = pytest.mark.parametrize


def one(value, **changes):
    return {"w": torch.as_tensor(value)} | changes


@parametrize("method", ALL)
def test_a_method_is_a_value(method):
    assert isinstance(method, MergingMethod)
    assert pickle.loads(pickle.dumps(method)) == method
    assert hash(method) == hash(pickle.loads(pickle.dumps(method)))


def test_expert_is_that_expert_and_reads_no_other():
    class Lazy(Mapping):
        def __getitem__(self, name):
            return {"one": one([1.0], steps=torch.tensor(7))}[name]

        def __iter__(self):
            return iter(["one", "two"])

        def __len__(self):
            return 2

        def __contains__(self, name):
            return name in ("one", "two")

    merged = Expert("one")(one([0.0], steps=torch.tensor(1)), Lazy())
    assert merged["w"] == 1
    assert merged["steps"] == 7


@parametrize("method", MERGES)
def test_integers_and_booleans_are_the_base_s(method):
    base = one([0.0], steps=torch.tensor(3), mask=torch.tensor([True, False]))
    expert = one([1.0], steps=torch.tensor(9), mask=torch.tensor([False, True]))
    merged = method(base, {"one": expert})
    assert merged["steps"] == 3
    assert merged["mask"].tolist() == [True, False]
    assert merged["steps"].data_ptr() != base["steps"].data_ptr()


@parametrize("method", MERGES)
def test_scalars_merge_like_any_tensor(method):
    merged = method(one(1.0), {"one": one(2.0), "two": one(4.0)})
    as_vector = method(one([1.0]), {"one": one([2.0]), "two": one([4.0])})
    assert merged["w"].shape == ()
    assert merged["w"] == as_vector["w"][0] != 1


@parametrize("dtype", [torch.float16, torch.bfloat16])
@parametrize("method", MERGES)
def test_half_precision_is_computed_in_float32_and_rounded_once(method, dtype):
    generator = torch.Generator().manual_seed(1)
    base, *experts = ({"w": torch.randn(50, generator=generator).to(dtype)} for _ in range(9))
    merged = method(base, {str(i): expert for i, expert in enumerate(experts)})["w"]
    full = method({"w": base["w"].float()}, {str(i): {"w": e["w"].float()} for i, e in enumerate(experts)})["w"]
    assert merged.dtype == dtype
    assert torch.equal(merged, full.to(dtype))


def test_a_sum_that_half_precision_could_not_hold_is_averaged():
    large = {"w": torch.full((1,), 60000.0, dtype=torch.float16)}
    merged = Average()({"w": torch.zeros(1, dtype=torch.float16)}, {str(i): large for i in range(4)})
    assert merged["w"].tolist() == [60000.0]


@parametrize("method", MERGES)
def test_experts_of_another_precision_give_the_dtype_of_the_base(method):
    base = {"w": torch.zeros(3, dtype=torch.bfloat16)}
    merged = method(base, {"one": {"w": torch.ones(3)}, "two": {"w": torch.ones(3, dtype=torch.float64)}})
    assert merged["w"].dtype == torch.bfloat16
    assert Expert("two")(base, {"two": {"w": torch.ones(3, dtype=torch.float64)}})["w"].dtype == torch.bfloat16


def test_float8_merges():
    base, expert = ({"w": torch.full((4,), value).to(torch.float8_e4m3fn)} for value in (1.0, 2.0))
    assert TaskArithmetic(1.0)(base, {"one": expert})["w"].float().tolist() == [2.0] * 4


@parametrize("method", ALL)
def test_parameters_that_require_grad_give_plain_tensors(method):
    layers = [nn.Linear(3, 2) for _ in range(2)]
    base, expert = (dict(layer.named_parameters()) for layer in layers)
    merged = method(base, {"one": expert})
    assert not any(tensor.requires_grad for tensor in merged.values())
    assert all(type(tensor) is torch.Tensor for tensor in merged.values())


@parametrize("method", ALL)
def test_non_contiguous_and_expanded_tensors(method):
    base = {"t": torch.randn(4, 3).T, "e": torch.ones(1, 3).expand(4, 3)}
    merged = method(base, {"one": {name: tensor + 1 for name, tensor in base.items()}})
    assert {name: tensor.shape for name, tensor in merged.items()} == {"t": (3, 4), "e": (4, 3)}
    merged["e"][0, 0] = 5
    assert merged["e"][1, 0] != 5


def test_tied_weights_count_once_and_stay_tied():
    def tied(values):
        weight = torch.tensor(values)
        return {"embed": weight, "other": torch.tensor([0.5, 0.4]), "head": weight}

    base = {name: torch.zeros(2) for name in ("embed", "other")}
    base["head"] = base["embed"]
    merged = Ties(1.0, 0.75)(base, {"one": tied([3.0, 2.0])})
    untied = Ties(1.0, 0.75)({k: v.clone() for k, v in base.items()}, {"one": tied([3.0, 2.0])})
    assert merged["other"].tolist() == [0.5, 0.0]  # 3 of 4 are kept
    assert untied["other"].tolist() == [0.0, 0.0]  # 4 of 6
    assert merged["head"] is merged["embed"]
    assert merged["embed"].tolist() == [3.0, 2.0]


@parametrize("method", [*MERGES, Expert("one")])
def test_an_expert_that_unties_what_the_base_ties_is_refused(method):
    weight = torch.zeros(2)
    base = {"embed": weight, "head": weight}
    method(base, {"one": {"embed": torch.ones(2), "head": torch.ones(2, dtype=torch.float16)}})
    with pytest.raises(MergeError, match=r"'one' .* 1 untied: head is not embed"):
        method(base, {"one": {"embed": torch.ones(2), "head": torch.zeros(2)}})


def test_signs_that_weigh_the_same_leave_the_base():
    merged = Ties(1.0, 1.0)(one([1.0, 1.0]), {"one": one([3.0, 4.0]), "two": one([-1.0, 3.0])})
    assert merged["w"].tolist() == [1.0, 3.5]


def test_tiny_and_huge_values_have_signs_too():
    merged = Ties(1.0, 1.0)(one([0.0, 0.0]), {"one": one([1e-40, 1e38]), "two": one([2e-40, -2e38])})["w"]
    torch.testing.assert_close(merged, torch.tensor([1.5e-40, -2e38]), atol=0, rtol=1e-4)


@parametrize("method", MERGES)
def test_no_expert(method):
    with pytest.raises(MergeError, match="no expert"):
        method(one([0.0]), {})


def test_an_unknown_expert_is_named_with_those_there_are():
    experts = {"mnist": one([0.0]), "svhn": one([0.0])}
    with pytest.raises(MergeError, match=r"'mnits'; did you mean 'mnist'\? Known: mnist, svhn"):
        Expert("mnits")(one([0.0]), experts)
    with pytest.raises(MergeError, match="Known: none"):
        Expert("mnits")(one([0.0]), {})


@parametrize("method", [*MERGES, Expert("bad")])
def test_a_mismatch_names_the_tensors_the_expert_and_both_shapes(method):
    base = {f"layer.{i}": torch.zeros(2) for i in range(9)} | one(torch.zeros(2, 3)) | {"q": torch.zeros(2)}
    bad = one(torch.zeros(3, 2), new=torch.zeros(1), q=torch.zeros(2, dtype=torch.int8))
    with pytest.raises(MergeError) as refusal:
        method(base, {"good": base, "bad": bad})
    text = str(refusal.value)
    assert "'bad'" in text
    assert "9 missing: layer.0, layer.1, layer.2, layer.3, layer.4, ..." in text
    assert "1 unexpected: new" in text
    assert "w is (3, 2), not (2, 3)" in text
    assert "q is torch.int8, not torch.float32" in text


@parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@parametrize("method", [*MERGES, Expert("two"), Ties(1.0, 1.0)])
def test_what_is_not_finite_is_named_with_the_expert_it_comes_from(method, bad):
    base = {"fine": torch.zeros(30), "w": torch.zeros(30)}
    two = {"fine": torch.ones(30), "w": torch.ones(30)}
    two["w"][7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'two'$"):
        method(base, {"one": {name: torch.ones(30) for name in base}, "two": two})


@parametrize("method", [Base(), TaskArithmetic(), Ties()])
def test_a_base_that_is_not_finite(method):
    with pytest.raises(MergeError, match=r"it already is so in the base$"):
        method(one([float("nan")]), {"one": one([0.0])})


def test_an_overflow_is_told_from_bad_inputs():
    half = {"w": torch.ones(2, dtype=torch.float16)}
    with pytest.raises(MergeError, match=r"'w' .* all inputs are finite: the merge is too large for torch.float16"):
        TaskArithmetic(1e6)(half, {"one": {"w": torch.full((2,), 2.0, dtype=torch.float16)}})


def test_complex_buffers_are_copied_but_not_merged():
    assert Base()(one([1j]), {})["w"].tolist() == [1j]
    assert Expert("one")(one([1j]), {"one": one([2j])})["w"].tolist() == [2j]
    with pytest.raises(MergeError, match=r"'w' is torch\.complex64"):
        Average()(one([1j]), {"one": one([2j])})


@parametrize(
    ("make", "text"),
    [
        (lambda: TaskArithmetic(float("nan")), "TaskArithmetic: scaling .* nan"),
        (lambda: TaskArithmetic("0.3"), "TaskArithmetic: scaling .* '0.3'"),
        (lambda: TaskArithmetic(None), "scaling .* None"),
        (lambda: TaskArithmetic(True), "scaling .* True"),
        (lambda: Ties(scaling=float("inf")), "Ties: scaling .* inf"),
        (lambda: Ties(density=0), r"Ties: density must be in \(0, 1\].* 0"),
        (lambda: Ties(density=1.01), "density .* 1.01"),
        (lambda: Ties(density=20), "density .* 20"),
        (lambda: Ties(density=None), "density .* None"),
        (lambda: Ties(trim="layer"), "Ties: trim .* 'layer'"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
