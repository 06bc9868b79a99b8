"""Ours against what FusionBench and mergekit, run as a user runs them, made of the same models (see tests/oracles)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fusion_eval.merging import Average, TaskArithmetic, Ties

FIXTURE = Path(__file__).parents[2] / "oracles" / "merging.safetensors"


@pytest.fixture(scope="module")
def models():
    found = defaultdict(dict)
    with safe_open(FIXTURE, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            model, name = key.split("/")
            found[model][name] = file.get_tensor(key)
    return found


@pytest.fixture(scope="module")
def recipes():
    with safe_open(FIXTURE, "pt") as file:
        metadata = file.metadata()
    return {package: json.loads(metadata[f"{package} recipes"]) for package in ("fusion-bench", "mergekit")}


def assert_merges_to(models, method, oracle):
    merged = method(models["base"], {name: models[name] for name in ("one", "two", "three")})
    assert merged.keys() == models[oracle].keys()
    torch.testing.assert_close(merged, dict(models[oracle]), rtol=1e-6, atol=1e-7)


def test_average(models):
    assert_merges_to(models, Average(), "fusion-bench.average")
    assert_merges_to(models, Average(), "mergekit.linear")


@pytest.mark.parametrize("recipe", ["task_arithmetic_0.3", "task_arithmetic_-1"])
def test_task_arithmetic_of_fusion_bench(models, recipes, recipe):
    scaling = recipes["fusion-bench"][recipe]["scaling_factor"]
    assert_merges_to(models, TaskArithmetic(scaling), f"fusion-bench.{recipe}")


def test_task_arithmetic_of_mergekit(models, recipes):
    scaling = recipes["mergekit"]["task_arithmetic_0.3"]["lambda"]
    assert_merges_to(models, TaskArithmetic(scaling), "mergekit.task_arithmetic_0.3")


@pytest.mark.parametrize("recipe", ["ties_0.2", "ties_0.7"])
def test_ties_of_fusion_bench_trims_globally(models, recipes, recipe):
    parameters = sum(tensor.numel() for tensor in models["base"].values())
    options = recipes["fusion-bench"][recipe]
    kept = int(options["threshold"] * parameters) + 1  # the paper's code keeps one more than the share says
    assert_merges_to(models, Ties(options["scaling_factor"], kept / parameters), f"fusion-bench.{recipe}")


@pytest.mark.parametrize("recipe", ["ties_0.2", "ties_0.7", "ties_1"])
def test_ties_of_mergekit_trims_each_tensor(models, recipes, recipe):
    options = recipes["mergekit"][recipe]
    assert_merges_to(models, Ties(options["lambda"], options["density"], "tensor"), f"mergekit.{recipe}")


def test_the_two_ways_to_trim_differ_on_these_models(models):
    experts = {name: models[name] for name in ("one", "two", "three")}
    by_all, by_tensor = (Ties(trim=trim)(models["base"], experts) for trim in ("global", "tensor"))
    assert max(float((by_all[name] - by_tensor[name]).abs().max()) for name in by_all) > 0.01
