"""Iso-C, Iso-CTS and TSV-Merge: against FusionBench (see tests/oracles), closed forms, and what must always hold."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.linalg import polar

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, MergingMethod, TaskArithmetic
from fusion_eval.merging.isotropic import IsoC, IsoCTS
from fusion_eval.merging.task_singular_vectors import TsvMerge

ROOT = Path(__file__).parents[3]
METHODS = [IsoC(), IsoCTS(), IsoCTS(common=0.0), TsvMerge(), TsvMerge(flatten_kernels=True)]
KINDS = [IsoC, IsoCTS, TsvMerge]
parametrize = pytest.mark.parametrize


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def experts_of(*tensors):
    return {f"expert {i}": {"w": tensor} for i, tensor in enumerate(tensors)}


def merge(method, base, *tensors):
    return method({"w": base}, experts_of(*tensors))["w"]


@pytest.fixture(scope="module")
def oracle():
    models = defaultdict(dict)
    with safe_open(ROOT / "tests" / "oracles" / "singular.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118
            model, name = key.split("/")
            models[model][name] = file.get_tensor(key)
        return models, json.loads(file.metadata()["recipes"])


@parametrize("recipe", ["iso_c_1", "iso_c_1.5", "iso_cts_0.8", "iso_cts_0.5", "iso_cts_0", "tsv_1", "tsv_0.5"])
def test_equals_fusion_bench(oracle, recipe):
    models, recipes = oracle
    options = recipes[recipe]
    methods = {
        "iso_c": lambda: IsoC(options["scaling_factor"]),
        "iso_cts": lambda: IsoCTS(options["scaling_factor"], options["common_space_fraction"]),
        "tsv": lambda: TsvMerge(options["alpha"]),
    }
    method = methods[recipe.rpartition("_")[0]]()
    merged = method(models["base"], {name: models[name] for name in ("one", "two", "three")})
    torch.testing.assert_close(merged, dict(models[recipe]), rtol=1e-9, atol=1e-12)


def test_iso_c_is_the_polar_factor_times_the_mean_singular_value():
    base, *experts = (random(6, 9, seed=seed, dtype=torch.float64) for seed in range(4))
    total = (sum(expert - base for expert in experts)).numpy()
    factor, positive = polar(total, side="left")
    expected = base + 1.3 * torch.from_numpy(factor) * positive.trace() / 6
    torch.testing.assert_close(merge(IsoC(1.3), base, *experts), expected)


def test_tsv_merge_of_orthogonal_tasks_is_the_sum_of_their_truncations():
    u, _, vh = torch.linalg.svd(random(8, 8, dtype=torch.float64))
    values = torch.tensor([9.0, 8.0, 0.5, 0.4], dtype=torch.float64)
    tasks = [(u[:, part] * values) @ vh[part] for part in (slice(0, 4), slice(4, 8))]
    merged = merge(TsvMerge(), torch.zeros(8, 8, dtype=torch.float64), *tasks)
    torch.testing.assert_close(merged, sum(tasks))  # each keeps 8 / 2 = 4 directions: all it has
    merged = merge(TsvMerge(), torch.zeros(8, 8, dtype=torch.float64), *tasks, torch.zeros(8, 8, dtype=torch.float64))
    values[2:] = 0  # each keeps 8 // 3 = 2
    torch.testing.assert_close(merged, sum((u[:, part] * values) @ vh[part] for part in (slice(0, 4), slice(4, 8))))


def test_iso_cts_keeps_directions_that_the_sum_hides():
    """Task two is weaker than the directions of task one, and orthogonal: its own direction must reach the merge."""
    one, two = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 0], one[1, 1], one[2, 2], two[3, 3] = 4.0, 3.0, 2.0, 1.0
    merged = merge(IsoCTS(common=0.5), torch.zeros(4, 4), one, two)
    torch.testing.assert_close(merged, torch.eye(4) * (4 + 3 + 2 + 1) / 4)


def test_all_of_the_space_in_common_is_iso_c():
    base, *experts = (random(7, 5, seed=seed) for seed in range(4))
    assert torch.equal(merge(IsoCTS(0.4, 1.0), base, *experts), merge(IsoC(0.4), base, *experts))


def test_a_common_space_that_does_not_divide_is_raised():
    """Five directions and three experts: one each, and two in common, where FusionBench 0.2.33 fails."""
    base, *experts = (random(5, 7, seed=seed) for seed in range(4))
    assert torch.equal(merge(IsoCTS(common=0.0), base, *experts), merge(IsoCTS(common=0.4), base, *experts))


def test_tsv_merge_of_one_expert_is_that_expert():
    base, expert = random(7, 5, seed=1), random(7, 5, seed=2)
    torch.testing.assert_close(merge(TsvMerge(), base, expert), expert)


@parametrize("copies", [2, 3])
def test_equal_experts_give_what_they_share(copies):
    """FusionBench fills the directions that such experts leave open with arbitrary ones, and rounding noise."""
    base, expert = random(6, 7, seed=1), random(6, 7, seed=2)
    u, s, vh = torch.linalg.svd(expert - base, full_matrices=False)
    kept = 6 // copies
    expected = base + (u[:, :kept] * s[:kept]) @ vh[:kept]
    torch.testing.assert_close(merge(TsvMerge(), base, *[expert] * copies), expected)
    torch.testing.assert_close(merge(IsoC(), base, *[expert] * copies), base + copies * s.mean() * u @ vh)


@parametrize(("method", "times"), [(IsoC(), 3), (IsoCTS(), 3), (IsoCTS(common=0.0), 1.5), (TsvMerge(), 1.5)])
def test_directions_that_no_expert_has_stay_as_they_are(method, times):
    """What the experts have once and twice is summed in a common subspace, and averaged where each has its own."""
    direction = torch.outer(torch.arange(1.0, 10.0), torch.arange(-3.0, 5.0))  # of integers: of rank 1 to the bit
    torch.testing.assert_close(merge(method, torch.zeros(9, 8), direction, 2 * direction), times * direction)


@parametrize("method", METHODS)
def test_what_is_no_matrix_is_averaged(method):
    base = {"bias": random(4), "scale": random(()), "empty": torch.zeros(0, 3), "count": torch.tensor(3)}
    experts = {
        str(i): {
            "bias": random(4, seed=i),
            "scale": random((), seed=i),
            "empty": torch.zeros(0, 3),
            "count": base["count"],
        }
        for i in (1, 2)
    }
    torch.testing.assert_close(method(base, experts), Average()(base, experts))


@parametrize("kind", KINDS)
def test_kernels_are_averaged_or_flattened(kind):
    base, *experts = (random(4, 3, 2, 2, seed=seed) for seed in range(3))
    torch.testing.assert_close(merge(kind(0.7), base, *experts), merge(Average(0.7), base, *experts))
    flat = merge(kind(0.7), base.flatten(1), *(expert.flatten(1) for expert in experts))
    assert torch.equal(merge(kind(0.7, flatten_kernels=True), base, *experts), flat.view(4, 3, 2, 2))
    assert not torch.allclose(flat.view(4, 3, 2, 2), merge(Average(0.7), base, *experts))


@parametrize("method", METHODS)
@parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 2)])
def test_more_experts_than_directions(method, shape):
    base, *experts = (random(*shape, seed=seed) for seed in range(6))
    merged = merge(method, base, *experts)
    assert merged.shape == shape
    assert merged.isfinite().all()
    if isinstance(method, TsvMerge):
        assert torch.equal(merged, base)


@parametrize("method", METHODS)
def test_experts_equal_to_the_base_give_the_base(method):
    base = random(5, 4)
    assert torch.equal(merge(method, base, base, base), base)


@parametrize("method", METHODS)
@parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_its_expert(method, bad):
    broken = random(3, 4)
    broken[1, 2] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'expert 1'$"):
        merge(method, random(3, 4, seed=1), random(3, 4, seed=2), broken)


matrices = arrays.arrays("float32", (4, 6), elements=st.floats(-1e3, 1e3, width=32)).map(torch.from_numpy)


@settings(max_examples=40, deadline=None)
@given(matrices, st.lists(matrices, min_size=1, max_size=4))
@parametrize("kind", KINDS)
def test_scaling_0_is_the_base(kind, base, tensors):
    assert torch.equal(merge(kind(0), base, *tensors), base)


@settings(max_examples=40, deadline=None)
@given(st.lists(matrices, min_size=1, max_size=4), st.floats(-2, 2))
@parametrize("kind", KINDS)
def test_the_update_is_proportional_to_scaling(kind, tensors, scaling):
    once = merge(kind(1), torch.zeros(4, 6), *tensors)
    torch.testing.assert_close(merge(kind(scaling), torch.zeros(4, 6), *tensors), scaling * once)


@settings(max_examples=40, deadline=None)
@given(st.lists(matrices, min_size=1, max_size=4))
def test_iso_c_has_one_singular_value_and_keeps_their_sum(tensors):
    base = torch.zeros(4, 6, dtype=torch.float64)
    tensors = [tensor.double() for tensor in tensors]
    found = torch.linalg.svdvals(merge(IsoC(), base, *tensors))
    total = torch.linalg.svdvals(sum(tensors)).sum()
    torch.testing.assert_close(found.sum(), total)
    for value in found[found > 1e-9 * found.max()]:
        torch.testing.assert_close(value, found.max())


@parametrize("method", METHODS)
def test_the_order_and_the_names_of_experts_do_not_matter(method):
    base, *tensors = (random(8, 12, seed=seed) for seed in range(4))
    merged = merge(method, base, *tensors)
    reverse = dict(reversed(experts_of(*tensors).items()))
    assert torch.equal(method({"w": base}, reverse)["w"], merged)
    torch.testing.assert_close(merge(method, base, *reversed(tensors)), merged)


@parametrize("method", METHODS)
@parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(method, dtype):
    base, *experts = (random(6, 5, seed=seed).to(dtype) for seed in range(4))
    full = merge(method, base.float(), *(expert.float() for expert in experts))
    assert torch.equal(merge(method, base, *experts), full.to(dtype))


def test_tied_weights_stay_tied_and_arguments_untouched():
    weight, other = random(4, 3), random(4, 3, seed=1)
    base, expert = {"embed": weight, "head": weight}, {"embed": other, "head": other}
    before = weight.clone(), other.clone()
    for method in METHODS:
        merged = method(base, {"one": expert, "two": expert})
        assert merged["head"] is merged["embed"]
        merged["head"].add_(1)
    assert torch.equal(weight, before[0])
    assert torch.equal(other, before[1])


@parametrize("method", [IsoC(1, True), IsoCTS(1, 0.8, True), TsvMerge(1, True)])
def test_bits_do_not_depend_on_the_number_of_threads(method):
    """On real weights, some of which a merge brings so near to 0 that even errors in float64 show in float32."""
    base = load_file(ROOT / "fusion_eval" / "zoo" / "base.safetensors")
    names = ("optdigits", "mnist", "scripts", "textures")
    experts = {name: load_file(ROOT / "fusion_eval" / "zoo" / f"{name}.safetensors") for name in names}
    threads = torch.get_num_threads()
    merged = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            merged.append(method(base, experts))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(merged[0][name], other[name]) for other in merged[1:] for name in base)


@parametrize("method", METHODS)
def test_a_method_is_a_value(method):
    assert isinstance(method, MergingMethod)
    assert method == type(method)(**vars(method))
    assert method != TaskArithmetic()
    assert {method: 1}[type(method)(**vars(method))]


@parametrize(
    ("make", "text"),
    [
        (lambda: IsoC(float("nan")), "IsoC: scaling .* nan"),
        (lambda: IsoC("1"), "IsoC: scaling .* '1'"),
        (lambda: IsoCTS(common=1.1), r"IsoCTS: common must be in \[0, 1\], got 1.1"),
        (lambda: IsoCTS(common=-0.1), "common .* -0.1"),
        (lambda: IsoCTS(common=None), "common .* None"),
        (lambda: IsoCTS(float("inf")), "IsoCTS: scaling .* inf"),
        (lambda: TsvMerge(None), "TsvMerge: scaling .* None"),
    ],
)
def test_hyper_parameters_are_checked(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


@parametrize(("name", "kind"), [("iso_c", IsoC), ("iso_cts", IsoCTS), ("tsv_merge", TsvMerge)])
def test_the_config_holds_the_defaults(name, kind):
    config = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    assert config.pop("_target_") == f"fusion_eval.merging.{kind.__name__}"
    assert config == vars(kind())
