"""A merge comes tensor by tensor: rounded once, whole, and with no more in memory than it says."""

import weakref
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch

from fusion_eval.errors import MergeError
from fusion_eval.merging import (
    Average,
    Breadcrumbs,
    ConsensusTaskArithmetic,
    Dare,
    Della,
    Expert,
    IsoC,
    IsoCTS,
    KarcherMean,
    Lines,
    MergingMethod,
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
    WiseFt,
    WudiMerging,
)
from fusion_eval.merging.stream import finished

parametrize = pytest.mark.parametrize
METHODS = [
    Average(),
    TaskArithmetic(),
    Ties(),
    Ties(trim="tensor"),
    Dare(),
    Della(),
    Breadcrumbs(),
    Slerp("one", "two"),
    NuSlerp("one", "two"),
    MultiSlerp(),
    KarcherMean(),
    ModelStock(),
    Sce(),
    PcbMerging(),
    ConsensusTaskArithmetic(),
    TallMask(),
    TallMask().variant("two"),
    IsoC(),
    IsoCTS(),
    TsvMerge(),
    WudiMerging(steps=3),
    Lines(alpha=0.3),
    Lines(),
    WiseFt("one"),
    Expert("two"),
]


def models(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def model():
        made = {f"layer.{i}.weight": torch.randn(6, 5, generator=generator).to(dtype) for i in range(6)}
        return made | {"steps": torch.randint(0, 9, (2,), generator=generator), "mask": torch.tensor([True, False])}

    return model(), {name: model() for name in ("one", "two", "three")}


@parametrize("method", METHODS)
def test_merged_tensors_are_let_go(method, monkeypatch):
    if method == Lines():
        pytest.skip("its scaling is known when all tensors are merged")
    monkeypatch.setattr("fusion_eval.merging.tensors._MERGED_A_THREAD", 1)  # as if each tensor were a large one
    base, experts = models()
    alive = []
    for _name, tensor in method.stream(base, experts):
        assert sum(one() is not None for one in alive) <= 1  # the one of the step before
        alive.append(weakref.ref(tensor))
        del tensor


@parametrize("method", [Average(), TaskArithmetic(), Ties(), IsoC()])
@parametrize("most", [1, 31, 75, 10**6])
def test_how_many_are_merged_at_once_changes_nothing(method, most, monkeypatch):
    base, experts = models()
    expected = method(base, experts)
    monkeypatch.setattr("fusion_eval.merging.tensors._MERGED_A_THREAD", most)
    monkeypatch.setattr("fusion_eval.merging.tensors._SUMMED_AT_ONCE", 7)
    merged = method(base, experts)
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


@parametrize("method", [Average(), TaskArithmetic(), Ties()])
def test_of_tensors_that_are_merged_at_once_the_first_that_is_not_finite_is_named(method):
    base, experts = models()
    experts["three"]["layer.2.weight"][5, 4] = torch.nan
    experts["one"]["layer.4.weight"][0, 0] = torch.inf
    with pytest.raises(MergeError, match=r"'layer\.2\.weight' holds NaN or Inf: it already is so in expert 'three'$"):
        dict(method.stream(base, experts))


@parametrize("method", [Average(), TaskArithmetic(), Ties()])
def test_nothing_else_sees_the_memory_of_a_merged_tensor(method):
    base, experts = models()
    for _name, tensor in method.stream(base, experts):
        storage = tensor.untyped_storage()
        assert torch._C._storage_Use_Count(storage._cdata) == 2  # so a module can take it over; see `put`


class Counting(Mapping):
    """Counts how many of its tensors were asked for, in which order."""

    def __init__(self, tensors, asked):
        self.tensors, self.asked = tensors, asked

    def __getitem__(self, name):
        self.asked.append(name)
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


@parametrize("method", [Average(), TaskArithmetic(), ConsensusTaskArithmetic(), Dare(), IsoC()])
def test_tensors_are_asked_for_one_after_the_other(method):
    base, experts = models()
    asked = []
    stream = method.stream(base, {name: Counting(expert, asked) for name, expert in experts.items()})
    asked.clear()  # the check that they fit has looked at all
    order = [name for name, _tensor in stream]
    assert list(dict.fromkeys(asked)) == order
    assert all(asked.index(later) > len(asked) - asked[::-1].index(earlier) - 1 for earlier, later in pairwise(order))


@parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@parametrize("method", [Average(), Ties(), IsoC(), Expert("two")])
def test_the_output_dtype_is_a_choice_and_rounded_to_once(method, dtype):
    base, experts = models(torch.bfloat16)
    exact = method({k: v.double() if v.is_floating_point() else v for k, v in base.items()}, experts)
    for name, tensor in finished(method, base, experts, dtype=dtype):
        if base[name].is_floating_point():
            assert tensor.dtype == dtype
            torch.testing.assert_close(tensor.double(), exact[name], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
        else:
            assert torch.equal(tensor, (experts["two"] if isinstance(method, Expert) else base)[name])


def test_what_the_dtype_cannot_hold_is_refused():
    base, expert = {"w": torch.zeros(1)}, {"w": torch.full((1,), 1e6)}
    with pytest.raises(MergeError, match=r"'w' .* too large for torch\.float16"):
        dict(finished(Average(), base, {"one": expert}, dtype=torch.float16))


def test_integers_are_averaged_if_asked_for():
    base, experts = models()
    averaged = dict(finished(Average(), base, experts, integers="average"))
    mean = torch.stack([expert["steps"].double() for expert in experts.values()]).mean(dim=0)
    assert averaged["steps"].tolist() == mean.round().tolist()
    assert averaged["steps"].dtype == torch.int64
    assert averaged["mask"].tolist() == base["mask"].tolist()


def test_a_method_of_ones_own_is_checked():
    class Own(MergingMethod):
        def __init__(self, *made):
            self.made = made

        def stream(self, base, experts):
            return iter(self.made)

    base = {"w": torch.zeros(2), "steps": torch.tensor(3)}
    assert Own(("w", torch.ones(2)))(base, {})["steps"] == 3
    with pytest.raises(MergeError, match="left out w"):
        Own()(base, {})
    with pytest.raises(MergeError, match=r"a tensor 'v' of shape \(2,\), which the base has not"):
        Own(("v", torch.ones(2)))(base, {})
    with pytest.raises(MergeError, match=r"a tensor 'w' of shape \(3,\), which the base has not"):
        Own(("w", torch.ones(3)))(base, {})
