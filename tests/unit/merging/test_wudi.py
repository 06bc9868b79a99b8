"""WUDI-Merging: against FusionBench (see tests/oracles), the closed form of its minimum, and what must always hold."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, MergingMethod
from fusion_eval.merging.wudi import WudiMerging

ROOT = Path(__file__).parents[3]
parametrize = pytest.mark.parametrize


def merge(method, base, *tensors):
    return method({"w": base}, {f"expert {i}": {"w": tensor} for i, tensor in enumerate(tensors)})["w"]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def interference(merged, vectors):
    return sum(float(((merged - one) @ one.mT).norm() ** 2 / one.norm() ** 2) for one in vectors)


@parametrize("recipe", ["wudi_30", "wudi_300"])
def test_equals_fusion_bench(recipe):
    models = defaultdict(dict)
    with safe_open(ROOT / "tests" / "oracles" / "singular.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118
            model, name = key.split("/")
            models[model][name] = file.get_tensor(key)
        steps = json.loads(file.metadata()["recipes"])[recipe]["iter_num"]
    merged = WudiMerging(steps=steps, others="mean")(
        models["base"], {name: models[name] for name in ("one", "two", "three")}
    )
    torch.testing.assert_close(merged, dict(models[recipe]), rtol=1e-9, atol=1e-10)


def test_many_steps_reach_the_minimum():
    vectors = [random(6, 4, seed=seed, dtype=torch.float64) for seed in range(3)]
    grams = [one.mT @ one / one.norm() ** 2 for one in vectors]
    minimum = sum(one @ gram for one, gram in zip(vectors, grams, strict=True)) @ torch.linalg.inv(sum(grams))
    merged = merge(WudiMerging(steps=4000, learning_rate=1e-2), torch.zeros(6, 4, dtype=torch.float64), *vectors)
    torch.testing.assert_close(merged, minimum, rtol=1e-5, atol=1e-5)


def test_every_step_lowers_the_interference():
    vectors = [0.01 * random(8, 12, seed=seed, dtype=torch.float64) for seed in range(4)]
    base = torch.zeros(8, 12, dtype=torch.float64)
    found = [interference(merge(WudiMerging(steps=steps), base, *vectors), vectors) for steps in (1, 10, 100, 300)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.9 * interference(sum(vectors), vectors)


def test_one_expert_alone_stays_itself():
    base, expert = random(5, 4), random(5, 4, seed=1)
    torch.testing.assert_close(merge(WudiMerging(), base, expert), expert)


def test_experts_equal_to_the_base_have_no_say():
    base, *experts = (random(5, 4, seed=seed) for seed in range(3))
    assert torch.equal(merge(WudiMerging(), base, *experts, base), merge(WudiMerging(), base, *experts))
    assert torch.equal(merge(WudiMerging(), base, base, base), base)


def test_scaling_scales_the_update_and_0_is_the_base():
    base, *experts = (random(5, 4, seed=seed) for seed in range(3))
    once = merge(WudiMerging(), base, *experts)
    torch.testing.assert_close(merge(WudiMerging(0.3), base, *experts), base + 0.3 * (once - base))
    assert torch.equal(merge(WudiMerging(0), base, *experts), base)


def test_without_a_learning_rate_it_is_the_sum():
    base, *experts = (random(5, 4, seed=seed) for seed in range(3))
    total = sum(expert - base for expert in experts)
    torch.testing.assert_close(merge(WudiMerging(learning_rate=0), base, *experts), base + total)


def test_what_is_no_matrix_is_averaged_and_kernels_may_be_flattened():
    base = {"bias": random(4), "scale": random(()), "empty": torch.zeros(0, 3), "kernel": random(4, 3, 2, 2)}
    experts = {
        str(i): {name: random(tensor.shape, seed=i) for name, tensor in base.items()} | {"empty": base["empty"]}
        for i in (1, 2)
    }
    torch.testing.assert_close(WudiMerging(others="mean")(base, experts), Average()(base, experts))
    assert all(torch.equal(tensor, base[name]) for name, tensor in WudiMerging()(base, experts).items())
    flat = merge(
        WudiMerging(), base["kernel"].flatten(1), *(expert["kernel"].flatten(1) for expert in experts.values())
    )
    assert torch.equal(WudiMerging(flatten_kernels=True)(base, experts)["kernel"], flat.view(4, 3, 2, 2))


def test_orders_dtypes_threads_and_arguments():
    base, *tensors = (0.1 * random(64, 96, seed=seed) for seed in range(4))
    before = [tensor.clone() for tensor in tensors]
    merged = merge(WudiMerging(), base, *tensors)
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
    torch.testing.assert_close(merge(WudiMerging(), base, *reversed(tensors)), merged)
    experts = {f"expert {i}": {"w": tensor} for i, tensor in enumerate(tensors)}
    assert torch.equal(WudiMerging()({"w": base}, dict(reversed(experts.items())))["w"], merged)
    half = merge(WudiMerging(), base.half(), *(tensor.half() for tensor in tensors))
    full = merge(WudiMerging(), base.half().float(), *(tensor.half().float() for tensor in tensors))
    assert torch.equal(half, full.half())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert torch.equal(merge(WudiMerging(), base, *tensors), merged)
    finally:
        torch.set_num_threads(threads)


@parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_its_expert(bad):
    broken = random(3, 4)
    broken[1, 2] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'expert 1'$"):
        merge(WudiMerging(), random(3, 4, seed=1), random(3, 4, seed=2), broken)


@parametrize(
    ("make", "text"),
    [
        (lambda: WudiMerging(float("nan")), "WudiMerging: scaling .* nan"),
        (lambda: WudiMerging(others="experts"), r'others must be "base" or "mean", got .experts.'),
        (lambda: WudiMerging(steps=0), r"steps must be 1, 2, 3, \.\.\., got 0"),
        (lambda: WudiMerging(steps=1.5), r"steps .* 1\.5"),
        (lambda: WudiMerging(learning_rate=-1e-5), "learning_rate must not be negative"),
        (lambda: WudiMerging(learning_rate="1e-5"), "learning_rate .* '1e-5'"),
    ],
)
def test_hyper_parameters_are_checked(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_method_is_a_value_with_the_defaults_of_the_config():
    assert isinstance(WudiMerging(), MergingMethod)
    assert {WudiMerging(): 1}[WudiMerging(1.0)]
    config = yaml.safe_load((ROOT / "conf" / "model" / "wudi_merging.yaml").read_text())
    assert config.pop("_target_") == "fusion_eval.merging.WudiMerging"
    assert config == vars(WudiMerging())
