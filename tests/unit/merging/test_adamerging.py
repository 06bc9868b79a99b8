"""AdaMerging: against FusionBench (see tests/oracles), the entropy it minimises, and what must always hold."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from calibrated import CLASSES, calibration, network, random, weights
from torch import nn

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import TaskArithmetic
from fusion_eval.merging.adamerging import AdaMerging

ROOT = Path(__file__).parents[3]
EXPERTS = ("one", "two")


def entropy(model, samples):
    logs = model(samples).detach().log_softmax(dim=1)
    return float(-(logs.exp() * logs).sum(dim=1).mean())


@pytest.mark.parametrize("granularity", ["layer", "task"])
def test_equals_fusion_bench(oracle, granularity):
    models = partial(oracle, "data_methods.safetensors")
    samples = calibration({name: tensor.float() for name, tensor in models("inputs").items()})
    method = AdaMerging(samples, granularity, steps=60, learning_rate=0.02)
    base, experts = models("base"), {name: models(name) for name in EXPERTS}
    torch.testing.assert_close(method(base, experts), models(f"adamerging_{granularity}"), rtol=1e-3, atol=1e-3)
    learnt = [value for of in method.coefficients(base, experts).values() for value in of.values()]
    assert max(learnt) - min(learnt) > 0.05
    assert len(set(learnt)) == (2 if granularity == "task" else 12) or {0.0, 1.0} & set(learnt)


def test_the_entropy_falls():
    inputs = {name: random(40, 6, seed=seed) for seed, name in enumerate("ab")}
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    found = []
    for steps in (0, 10, 40):
        model = network()
        model.load_state_dict(AdaMerging(calibration(inputs), steps=steps, learning_rate=0.01)(base, experts))
        found.append(sum(entropy(model, samples) for samples in inputs.values()))
    assert found[0] > found[1] > found[2]


def test_without_steps_it_is_task_arithmetic_with_the_prior():
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate("abc", start=1)}
    merged = AdaMerging(calibration({name: random(2, 6) for name in experts}), prior=0.4, steps=0)(base, experts)
    torch.testing.assert_close(merged, TaskArithmetic(0.4)(base, experts))


def test_coefficients_stay_between_0_and_1():
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    method = AdaMerging(calibration({name: random(9, 6) for name in experts}), steps=30, learning_rate=0.3)
    learnt = {value for of in method.coefficients(base, experts).values() for value in of.values()}
    assert min(learnt) >= 0
    assert max(learnt) <= 1
    assert {0.0, 1.0} <= learnt


@pytest.mark.parametrize("granularity", ["layer", "task"])
def test_the_coefficients_and_the_record_are_those_of_the_merge(granularity, monkeypatch):
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    method = AdaMerging(calibration({name: random(9, 6) for name in experts}), granularity, steps=5)
    merged = method(base, experts)
    monkeypatch.setattr(AdaMerging, "_learn", None)  # would be called if it learnt again
    learnt = method.coefficients(base, experts)
    for name, tensor in base.items():
        expected = tensor + sum(learnt[expert][name] * (of[name] - tensor) for expert, of in experts.items())
        torch.testing.assert_close(merged[name], expected)
    record = method.record(base, experts)
    assert record["calibration"]["experts"]["a"]["samples"] == 9
    assert record["coefficients"] == (
        learnt if granularity == "layer" else {e: of["0.bias"] for e, of in learnt.items()}
    )
    with pytest.raises(TypeError):
        method.coefficients(dict(base), experts)


def test_buffers_keep_the_prior_and_integers_are_the_bases():
    def architecture():
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))

    def weights_of(seed):
        state = weights(seed, architecture)
        state["1.running_var"].abs_().add_(0.5)
        return state

    base, experts = weights_of(0), {name: weights_of(seed) for seed, name in enumerate("ab", start=1)}
    method = AdaMerging(
        calibration({name: random(9, 6) for name in experts}, architecture), steps=5, learning_rate=0.01
    )
    assert method.coefficients(base, experts)["a"]["1.running_mean"] == pytest.approx(0.3)
    assert method.coefficients(base, experts)["a"]["0.weight"] != pytest.approx(0.3)
    assert method(base, experts)["1.num_batches_tracked"] == base["1.num_batches_tracked"]


def test_tied_weights_have_one_coefficient():
    def architecture():
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES))
        model[2].weight = model[0].weight
        return model

    base, *states = (architecture().state_dict() for _ in range(3))
    experts = dict(zip("ab", states, strict=True))
    method = AdaMerging(calibration({name: random(9, 6) for name in experts}, architecture), steps=3)
    assert "2.weight" not in method.coefficients(base, experts)["a"]
    merged = method(base, experts)
    assert merged["0.weight"] is merged["2.weight"]


def test_the_same_in_inference_mode_and_for_half_precision():
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    inputs = {name: random(9, 6) for name in experts}
    expected = AdaMerging(calibration(inputs), steps=3)(base, experts)
    with torch.inference_mode():
        there = {name: {key: tensor.clone() for key, tensor in of.items()} for name, of in experts.items()}
        found = AdaMerging(calibration(inputs), steps=3)(base, there)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    half = AdaMerging(calibration(inputs, lambda: network().half()), steps=3)(
        {name: tensor.half() for name, tensor in base.items()}, experts
    )
    torch.testing.assert_close({name: tensor.float() for name, tensor in half.items()}, expected, rtol=2e-2, atol=2e-2)


def test_what_is_not_finite_is_refused():
    broken = weights(1)
    broken["0.weight"][0, 0] = float("nan")
    with pytest.raises(MergeError, match=r"coefficients became NaN"):
        AdaMerging(calibration({"a": random(2, 6)}), steps=2)(weights(0), {"a": broken})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"granularity": "tensor"}, "granularity='tensor'; choose one of task, layer"),
        ({"prior": 1.5}, r"prior must be in \[0, 1\]"),
        ({"steps": -1}, "steps must be"),
        ({"steps": 1.5}, "steps must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"calibration": {}}, "calibration must be a fusion_eval"),
    ],
)
def test_hyper_parameters_are_checked(arguments, text):
    with pytest.raises(ConfigError, match=text):
        AdaMerging(**{"calibration": calibration({}), **arguments})


@pytest.mark.parametrize("granularity", ["layer", "task"])
def test_the_configs_have_the_defaults(granularity):
    config = yaml.safe_load((ROOT / "conf" / "model" / f"adamerging_{granularity}.yaml").read_text())
    assert config.pop("_target_") == "fusion_eval.merging.AdaMerging"
    assert config.pop("calibration") == "${calibration}"
    method = AdaMerging(calibration({}), granularity)
    assert config == {name: value for name, value in vars(method).items() if name != "calibration"}
