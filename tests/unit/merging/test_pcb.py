"""PCB-Merging: against a literal transcription of its formulas (no package has it), and what must always hold."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import MergingMethod
from fusion_eval.merging.pcb import PcbMerging

ROOT = Path(__file__).parents[3]
EXPERTS = ("one", "two", "three")
METHODS = [PcbMerging(), PcbMerging(0.7, 0.6), PcbMerging(1.0, 1.0)]
parametrize = pytest.mark.parametrize


def merge(method, base, *tensors):
    return method({"w": base}, {f"expert {i}": {"w": tensor} for i, tensor in enumerate(tensors)})["w"]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def literal_pcb(base, experts, scaling, density):
    """One parameter at a time, in Python's float64."""
    size, number = len(base), len(experts)
    vectors = [[e - b for e, b in zip(expert, base, strict=True)] for expert in experts]
    clamped, weights = [], []
    for vector in vectors:
        ordered = sorted(map(abs, vector))
        low, high = ordered[int(size * 0.0001)], ordered[int(size * (1 - 0.0001) - 1)]
        magnitudes = [min(max(abs(v), low), high) for v in vector]
        clamped.append([math.copysign(m, v) for m, v in zip(magnitudes, vector, strict=True)])
        scores = [
            math.exp(number * ((m - low) / (high - low)) ** 2) * math.tanh(v * sum(one[i] for one in vectors))
            for i, (m, v) in enumerate(zip(magnitudes, vector, strict=True))
        ]
        ordered = sorted(scores)
        least, most = ordered[int(size * (1 - density))], ordered[-1]
        weights.append([(max(score, least) - least) / (most - least) for score in scores])
    merged = []
    for i, b in enumerate(base):
        total = sum(weight[i] for weight in weights)
        merged.append(b + scaling * sum(w[i] * c[i] for w, c in zip(weights, clamped, strict=True)) / max(total, 1e-12))
    return merged


@parametrize("number", [1, 2, 5])
@parametrize(("scaling", "density"), [(1.2, 0.1), (0.5, 0.37), (1.0, 1.0), (-1.0, 0.05)])
def test_equals_the_formulas_one_by_one(number, scaling, density):
    base, *experts = (0.5 * random(211, seed=seed, dtype=torch.float64) for seed in range(number + 1))
    expected = literal_pcb(base.tolist(), [expert.tolist() for expert in experts], scaling, density)
    merged = merge(PcbMerging(scaling, density), base, *experts)
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(merged, base)


def test_the_competition_is_over_all_tensors_at_once():
    tensors = load_file(ROOT / "tests" / "oracles" / "merging.safetensors")
    names = [name.partition("/")[2] for name in tensors if name.startswith("base/")]
    base, *experts = ({name: tensors[f"{model}/{name}"].double() for name in names} for model in ("base", *EXPERTS))

    def flat(state_dict):
        return torch.cat([state_dict[name].flatten() for name in names])

    expected = literal_pcb(flat(base).tolist(), [flat(expert).tolist() for expert in experts], 1.2, 0.1)
    merged = PcbMerging()(base, dict(zip(EXPERTS, experts, strict=True)))
    torch.testing.assert_close(flat(merged), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    moved = {name: int((merged[name] != base[name]).sum()) for name in names}
    assert sum(moved.values()) <= 3 * 0.1 * sum(tensor.numel() for tensor in base.values())
    assert 0 in moved.values()  # the shares are not those of each tensor


def test_a_tensor_of_many_slices():
    base, *experts = (0.3 * random(3, 50_000, seed=seed) for seed in range(3))
    whole = merge(PcbMerging(), base, *experts)
    rows = PcbMerging()(
        {str(i): row for i, row in enumerate(base)},
        {key: {str(i): row for i, row in enumerate(expert)} for key, expert in zip("ab", experts, strict=True)},
    )
    torch.testing.assert_close(whole, torch.stack(list(rows.values())))
    moved = (whole != base).double().mean()
    assert 0.1 <= moved <= 0.2


def test_where_an_expert_moves_against_the_others_it_does_not_count():
    base, one = torch.zeros(40), random(40).abs() + 0.5
    half_against = torch.cat([-1.5 * one[:20], one[20:]])
    merged = merge(PcbMerging(1.0, 0.5), base, one, one, half_against)
    assert (merged[:20] >= 0).all()
    assert (merged != 0).sum() > 10


matrices = arrays.arrays("float32", (4, 5), elements=st.floats(-1e3, 1e3, width=32)).map(torch.from_numpy)
pools = st.lists(matrices, min_size=1, max_size=4)
quick = settings(max_examples=50, deadline=None)


@quick
@given(matrices, pools, st.floats(0.01, 1))
def test_scaling_0_is_the_base(base, tensors, density):
    assert torch.equal(merge(PcbMerging(0, density), base, *tensors), base)


@quick
@given(matrices, pools, st.floats(0.01, 1))
def test_each_value_lies_between_the_experts_and_the_base(base, tensors, density):
    merged = merge(PcbMerging(1.0, density), base, *tensors)
    corners = torch.stack([base, *tensors])
    # clamping the smallest magnitudes may raise one, but not over the least magnitude that is not clamped
    slack = 1e-3 + max(float((tensor - base).abs().min()) for tensor in tensors)
    assert (merged >= corners.amin(dim=0) - slack).all()
    assert (merged <= corners.amax(dim=0) + slack).all()


@quick
@given(matrices, matrices)
def test_experts_equal_to_the_base_do_not_count(base, expert):
    merged = merge(PcbMerging(), base, expert, base)
    assert merged.isfinite().all()
    vector = expert - base
    assert ((merged - base) * vector >= -1e-3 * vector.abs()).all()
    assert torch.equal(merge(PcbMerging(), base, base), base)


@parametrize("method", METHODS)
@parametrize("shape", [(), (1,), (2,), (3, 1)])
def test_a_handful_of_parameters(method, shape):
    base, *experts = (random(shape, seed=seed) for seed in range(4))
    merged = merge(method, base, *experts)
    assert merged.shape == shape
    assert merged.isfinite().all()
    assert torch.equal(merge(method, base, base + 1), base + method.scaling * ((base + 1) - base))


@parametrize("method", METHODS)
def test_nothing_to_merge(method):
    for base in ({"e": torch.zeros(0, 3)}, {"n": torch.tensor([1, 2])}, {}):
        merged = method(base, {"one": base})
        assert list(merged) == list(base)
        assert all(torch.equal(merged[name], base[name]) for name in base)


def test_a_hundred_experts():
    base, *experts = (random(50, seed=seed) for seed in range(101))
    assert merge(PcbMerging(), base, *experts).isfinite().all()


@parametrize("method", METHODS)
def test_keys_dtypes_and_orders(method):
    weight = random(40)
    base = {"b": weight.half(), "s": torch.tensor(1.0), "n": torch.tensor(3), "e": torch.zeros(0, 2)}
    base["b2"] = base["b"]
    two = {name: tensor * 2 for name, tensor in base.items()}
    one = {name: tensor + 1 for name, tensor in base.items()}
    merged = method(base, {"two": two, "one": one})
    assert list(merged) == list(base)
    assert {name: (t.dtype, t.shape) for name, t in merged.items()} == {n: (t.dtype, t.shape) for n, t in base.items()}
    assert merged["b2"] is merged["b"]
    assert merged["n"] == 3
    other = method(dict(reversed(base.items())), {"one": dict(reversed(one.items())), "two": two})
    assert all(torch.equal(merged[name], other[name]) for name in base)


@parametrize("method", METHODS)
@parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_with_its_tensor_and_expert(method, bad):
    base, one, two = ({"fine": random(30, seed=seed), "w": random(30, seed=seed + 9)} for seed in range(3))
    two["w"][7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'two'$"):
        method(base, {"one": one, "two": two})
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in the base$"):
        method(two, {"one": one, "three": base})


def test_no_expert():
    with pytest.raises(MergeError, match="no expert"):
        PcbMerging()({"w": torch.zeros(1)}, {})


def test_a_method_is_a_value():
    assert isinstance(PcbMerging(), MergingMethod)
    assert {PcbMerging(): 1}[PcbMerging(1.2, 0.1)]


@parametrize(
    ("make", "text"),
    [
        (lambda: PcbMerging(float("nan")), "PcbMerging: scaling .* nan"),
        (lambda: PcbMerging(density=0), r"density must be in \(0, 1\].* 0"),
        (lambda: PcbMerging(density=10), "density .* 10"),
        (lambda: PcbMerging(density=None), "density .* None"),
    ],
)
def test_hyper_parameters_are_checked(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_the_config_holds_the_defaults():
    config = yaml.safe_load((ROOT / "conf" / "model" / "pcb_merging.yaml").read_text())
    assert config.pop("_target_") == "fusion_eval.merging.PcbMerging"
    assert config == vars(PcbMerging())
