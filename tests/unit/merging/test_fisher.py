"""Fisher merging: against FusionBench's merge (see tests/oracles), a loop of plain torch, and what must always hold."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from calibrated import CLASSES, calibration, network, random, weights
from torch import nn
from torch.nn import functional

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average
from fusion_eval.merging.fisher import Fisher
from fusion_eval.merging.memory import process_memory

ROOT = Path(__file__).parents[3]
EXPERTS = ("one", "two")


@pytest.mark.parametrize(("recipe", "normalize"), [("fisher", False), ("fisher_normalized", True)])
def test_equals_fusion_bench(oracle, recipe, normalize):
    models = partial(oracle, "data_methods.safetensors")
    samples = calibration({name: tensor.float() for name, tensor in models("inputs").items()})
    merged = Fisher(samples, normalize=normalize, floor=0.0)(models("base"), {name: models(name) for name in EXPERTS})
    torch.testing.assert_close(merged, models(recipe), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", ["model", "data"])
def test_the_fisher_information_is_the_mean_of_squared_gradients(labels):
    expert, inputs, targets = weights(0), random(7, 6), [0, 3, 1, 4, 4, 2, 0]
    model = network()
    model.load_state_dict(expert)
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for sample, target in zip(inputs, targets, strict=True):
        chances = model(sample[None]).softmax(dim=1)[0].detach()
        for label in range(CLASSES):
            model.zero_grad()
            functional.cross_entropy(model(sample[None]), torch.tensor([label])).backward()
            share = chances[label] if labels == "model" else float(label == target)
            for name, parameter in model.named_parameters():
                expected[name] += share * parameter.grad**2 / len(inputs)
    method = Fisher(calibration({"e": inputs}, targets={"e": targets}), labels, normalize=False, floor=0.0)
    torch.testing.assert_close(method.importance("e", expert), expected, rtol=1e-4, atol=1e-7)


def test_of_a_softmax_regression_it_is_the_closed_form():
    def architecture():
        return nn.Linear(6, CLASSES, bias=False)

    expert, inputs = weights(1, architecture), random(9, 6)
    chances = (inputs @ expert["weight"].T).softmax(dim=1)
    expected = torch.einsum("nc,ni->ci", chances * (1 - chances), inputs**2) / len(inputs)
    method = Fisher(calibration({"e": inputs}, architecture), normalize=False, floor=0.0)
    torch.testing.assert_close(method.importance("e", expert)["weight"], expected)


def test_few_gradients_at_once_change_nothing(monkeypatch):
    method, expert = Fisher(calibration({"e": random(3, 6)})), weights(0)
    whole = method.importance("e", expert)
    monkeypatch.setattr(
        "fusion_eval.merging.fisher_information._GRADIENTS_AT_ONCE", 300
    )  # two classes of 149 parameters
    torch.testing.assert_close(method.importance("e", expert), whole)


def test_normalized_importances_have_norm_1_and_a_floor():
    method = Fisher(calibration({"e": random(4, 6)}), floor=0.01)
    importance = method.importance("e", weights(0))
    flat = torch.cat([one.flatten() for one in importance.values()])
    assert flat.min() == pytest.approx(0.01)
    assert flat[flat > 0.01].norm() == pytest.approx(1, abs=1e-2)


def test_weights_favour_an_expert():
    samples, experts = calibration({"a": random(4, 6), "b": random(4, 6, seed=1)}), {"a": weights(1), "b": weights(2)}
    base = weights(0)
    torch.testing.assert_close(Fisher(samples, weights={"b": 0.0})(base, experts), experts["a"])
    favoured = Fisher(samples, weights={"a": 5.0})(base, experts)
    plain = Fisher(samples)(base, experts)
    for name, ours in experts["a"].items():
        assert (favoured[name] - ours).abs().sum() < (plain[name] - ours).abs().sum()
    with pytest.raises(MergeError, match="all weights are 0"):
        Fisher(samples, weights={"a": 0, "b": 0})(base, experts)
    with pytest.raises(MergeError, match="no expert 'c'"):
        Fisher(samples, weights={"c": 1.0})(base, experts)


def test_without_gradients_it_is_the_mean():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(3))
            self.scale = nn.Parameter(torch.zeros(()))
            self.register_buffer("kept", torch.zeros(2))
            self.register_buffer("steps", torch.tensor(7))

        def forward(self, inputs):
            return 0 * self.scale * inputs[:, :CLASSES]

    base, experts = weights(0, Constant), {name: weights(seed, Constant) for seed, name in enumerate("abc", start=1)}
    samples = calibration({name: random(2, 6) for name in experts}, Constant)
    for floor in (0.0, 1e-6):
        torch.testing.assert_close(Fisher(samples, floor=floor)(base, experts), Average()(base, experts))


def test_tied_weights_are_one_parameter():
    def architecture():
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES))
        model[2].weight = model[0].weight
        return model

    experts = {}
    for name in "ab":
        model = architecture()
        experts[name] = model.state_dict()
    base = architecture().state_dict()
    merged = Fisher(calibration({name: random(3, 6) for name in experts}, architecture))(base, experts)
    assert merged["0.weight"] is merged["2.weight"]


def test_merges_of_a_sweep_share_what_was_measured(monkeypatch):
    class Stored(dict):
        identity = property(lambda self: ("file", float(self["0.bias"][0])))

    experts = {name: Stored(weights(seed)) for seed, name in enumerate("ab", start=1)}
    samples, base = calibration({name: random(3, 6) for name in experts}), weights(0)
    monkeypatch.setattr(process_memory, "limit", 2**20)
    expected = Fisher(samples, floor=1e-3)(base, {name: dict(expert) for name, expert in experts.items()})
    Fisher(samples)(base, experts)
    monkeypatch.setattr(
        "fusion_eval.merging.fisher.fisher_information", None
    )  # would be called if anything were measured again
    torch.testing.assert_close(Fisher(samples, floor=1e-3)(base, experts), expected)
    with pytest.raises(TypeError):
        Fisher(samples, labels="data")(base, experts)


def test_gradients_in_inference_mode_and_no_grad():
    experts = {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    samples, base = calibration({name: random(3, 6) for name in experts}), weights(0)
    expected = Fisher(samples)(base, experts)
    with torch.inference_mode():
        found = Fisher(calibration({name: random(3, 6) for name in experts}))(base, experts)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_not_finite_is_refused():
    expert = weights(1)
    expert["0.weight"][0, 0] = float("nan")
    with pytest.raises(MergeError, match="Fisher information of expert 'e' is not finite"):
        Fisher(calibration({"e": random(2, 6)}))(weights(0), {"e": expert})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"labels": "true"}, "labels='true'; choose one of model, data"),
        ({"floor": -1e-6}, "floor must not be negative"),
        ({"weights": {"a": -1.0}}, r"weights\.a must not be negative"),
        ({"weights": {"a": "much"}}, r"weights\.a must be a finite number"),
        ({"calibration": None}, r"calibration must be a fusion_eval\.tasks\.Calibration.*got None"),
    ],
)
def test_hyper_parameters_are_checked(arguments, text):
    with pytest.raises(ConfigError, match=text):
        Fisher(**{"calibration": calibration({}), **arguments})


def test_the_config_has_the_defaults():
    config = yaml.safe_load((ROOT / "conf" / "model" / "fisher.yaml").read_text())
    assert config.pop("_target_") == "fusion_eval.merging.Fisher"
    assert config.pop("calibration") == "${calibration}"
    method = Fisher(calibration({}))
    assert config == {name: getattr(method, name) for name in config}
    assert config.keys() == vars(method).keys() - {"calibration"}
