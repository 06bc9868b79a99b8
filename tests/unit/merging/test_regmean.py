"""RegMean: against FusionBench (see tests/oracles), least squares of NumPy and torch, and what must always hold."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from calibrated import CLASSES, calibration, random, weights
from torch import nn

from fusion_eval.errors import ConfigError
from fusion_eval.merging import Average
from fusion_eval.merging.memory import process_memory
from fusion_eval.merging.regmean import RegMean

ROOT = Path(__file__).parents[3]
EXPERTS = ("one", "two")


@pytest.mark.parametrize("off_diagonal", [1.0, 0.9, 0.1])
def test_equals_fusion_bench(oracle, off_diagonal):
    models = partial(oracle, "data_methods.safetensors")
    samples = calibration({name: tensor.float() for name, tensor in models("inputs").items()})
    merged = RegMean(samples, off_diagonal)(models("base"), {name: models(name) for name in EXPERTS})
    expected = models(f"regmean_{off_diagonal:g}")
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def least_squares(inputs, outputs):
    return torch.linalg.lstsq(torch.cat(inputs).double(), torch.cat(outputs).double(), driver="gelsd").solution.float()


def one_layer(layer, samples):
    """Experts of one layer, their inputs, and RegMean's merge of the weight as least squares."""
    architecture = partial(nn.Sequential, layer, nn.Flatten(), nn.LazyLinear(CLASSES))
    model = architecture()
    model(samples["a"])
    base = {name: random(*tensor.shape) for name, tensor in model.state_dict().items()}
    experts = {
        name: base | {"0.weight": random(*base["0.weight"].shape, seed=seed)} for seed, name in enumerate(samples, 1)
    }
    merged = RegMean(calibration(samples, lambda: model), 1.0)(base, experts)
    return {name: expert["0.weight"] for name, expert in experts.items()}, merged["0.weight"]


def test_a_linear_layer_is_least_squares_on_all_inputs():
    inputs = {"a": random(20, 7, 6), "b": 3 * random(20, 7, 6, seed=1)}
    theirs, merged = one_layer(nn.Linear(6, 4), inputs)
    rows = [samples.flatten(0, 1) for samples in inputs.values()]
    expected = least_squares(rows, [x @ weight.T for x, weight in zip(rows, theirs.values(), strict=True)])
    torch.testing.assert_close(merged.T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"padding": 1, "stride": 2}, {"padding": (0, 2), "dilation": (1, 2)}])
def test_a_kernel_is_least_squares_on_all_outputs_of_the_convolution(options):
    conv = nn.Conv2d(2, 3, kernel_size=(3, 2), bias=False, **options)
    inputs = {"a": random(4, 2, 7, 8), "b": 2 * random(4, 2, 7, 8, seed=1)}
    theirs, merged = one_layer(conv, inputs)

    def convolve(samples, weight):
        return nn.functional.conv2d(samples, weight, None, conv.stride, conv.padding, conv.dilation)

    units = torch.eye(12).view(12, 1, 2, 3, 2)  # the outputs are linear in the 12 numbers of a kernel
    columns = [torch.stack([convolve(x, unit).flatten() for unit in units], dim=1) for x in inputs.values()]
    wanted = [
        convolve(x, weight).transpose(0, 1).flatten(1).T
        for x, weight in zip(inputs.values(), theirs.values(), strict=True)
    ]
    torch.testing.assert_close(merged.flatten(1).T, least_squares(columns, wanted), rtol=1e-4, atol=1e-4)


def test_gpt2_linear_layers_are_stored_the_other_way_round():
    from transformers.pytorch_utils import Conv1D

    inputs = {"a": random(30, 6), "b": random(30, 6, seed=1)}
    theirs, merged = one_layer(Conv1D(4, 6), inputs)
    rows = list(inputs.values())
    expected = least_squares(rows, [x @ weight for x, weight in zip(rows, theirs.values(), strict=True)])
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_tied_layers_are_least_squares_on_the_inputs_of_all_of_them():
    def architecture():
        model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(2)), nn.Linear(6, CLASSES))
        model[1].weight = model[0].weight
        return model

    inputs = {"a": random(30, 6), "b": 2 * random(30, 6, seed=1)}
    base, *states = (architecture().state_dict() for _ in range(3))
    merged = RegMean(calibration(inputs, architecture), 1.0)(base, dict(zip(inputs, states, strict=True)))
    weights = [state["0.weight"] for state in states]
    rows = [torch.cat([x, x @ weight.T]) for x, weight in zip(inputs.values(), weights, strict=True)]
    expected = least_squares(rows, [x @ weight.T for x, weight in zip(rows, weights, strict=True)])
    torch.testing.assert_close(merged["0.weight"].T, expected, rtol=1e-4, atol=1e-4)
    assert merged["0.weight"] is merged["1.weight"]


def test_a_matrix_that_is_tied_to_an_embedding_is_averaged():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.classes, self.embedding = nn.Linear(6, CLASSES), nn.Embedding(CLASSES, 6)
            self.embedding.weight = self.classes.weight

        def forward(self, inputs):
            return self.classes(inputs)

    inputs = {name: random(30, 6, seed=seed) for seed, name in enumerate("ab")}
    base, *states = (Tied().state_dict() for _ in range(3))
    experts = dict(zip(inputs, states, strict=True))
    merged = RegMean(calibration(inputs, Tied))(base, experts)
    torch.testing.assert_close(merged, Average()(base, experts))


def test_what_the_inputs_do_not_determine_is_as_in_the_mean():
    inputs = {name: random(3, 6, seed=seed) for seed, name in enumerate("ab")}  # 6 rows in all, one input is dead
    for samples in inputs.values():
        samples[:, 2] = 0
        samples[:, 4] = samples[:, 0]
    theirs, merged = one_layer(nn.Linear(6, 4), inputs)
    mean = (theirs["a"] + theirs["b"]) / 2
    torch.testing.assert_close(merged[:, 2], mean[:, 2])
    moved = merged - mean
    torch.testing.assert_close(moved[:, 4], moved[:, 0], rtol=1e-3, atol=1e-4)
    rows = list(inputs.values())
    best = least_squares(rows, [x @ weight.T for x, weight in zip(rows, theirs.values(), strict=True)])
    torch.testing.assert_close(torch.cat(rows) @ merged.T, torch.cat(rows) @ best, rtol=1e-3, atol=1e-3)


def test_only_diagonals_weigh_each_input_by_itself():
    inputs = {"a": random(9, 6), "b": 2 * random(9, 6, seed=1)}
    base, experts = weights(0), {name: weights(seed) for seed, name in enumerate(inputs, start=1)}
    merged = RegMean(calibration(inputs), off_diagonal=0.0)(base, experts)
    power = {name: samples.square().mean(dim=0) for name, samples in inputs.items()}
    expected = sum(power[name] * expert["0.weight"] for name, expert in experts.items()) / sum(power.values())
    torch.testing.assert_close(merged["0.weight"], expected)


def test_all_other_tensors_are_averaged():
    def architecture():
        model = nn.Sequential(
            nn.Unflatten(1, (2, 3, 1)),
            nn.Conv2d(2, 4, 1, groups=2),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, (1, 1), padding_mode="circular"),
            nn.Flatten(),
            nn.Linear(12, 12),
            nn.Linear(12, 12),
            nn.Linear(12, CLASSES),
        )
        model[6].weight = model[5].weight
        model.register_module("unused", nn.ModuleList([nn.Linear(3, 3)]))
        model.forward = lambda inputs: nn.Sequential.forward(model[:8], inputs)
        return model

    def weights_of():
        return architecture().state_dict()

    base, experts = weights_of(), {"a": weights_of(), "b": weights_of()}
    merged = RegMean(calibration({name: random(50, 6) for name in experts}, architecture))(base, experts)
    average = Average()(base, experts)
    different = {name for name, tensor in merged.items() if not torch.allclose(tensor, average[name])}
    assert different == {"5.weight", "6.weight", "7.weight"}
    assert merged["5.weight"] is merged["6.weight"]


def test_kernels_are_left_alone_if_asked_for():
    def architecture():
        return nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(6, CLASSES))

    samples = calibration({name: random(50, 6, seed=seed) for seed, name in enumerate("ab")}, architecture)
    base, *states = (architecture().state_dict() for _ in range(3))
    experts, average = dict(zip("ab", states, strict=True)), Average()(base, dict(zip("ab", states, strict=True)))
    both, linear = RegMean(samples)(base, experts), RegMean(samples, flatten_kernels=False)(base, experts)
    torch.testing.assert_close(linear["1.weight"], average["1.weight"])
    assert not torch.allclose(both["1.weight"], average["1.weight"])
    torch.testing.assert_close(linear["3.weight"], both["3.weight"])
    assert not torch.allclose(linear["3.weight"], average["3.weight"])


def test_equal_experts_stay_what_they_are():
    expert = weights(1)
    merged = RegMean(calibration({name: random(9, 6, seed=ord(name)) for name in "ab"}))(
        weights(0), dict.fromkeys("ab", expert)
    )
    torch.testing.assert_close(merged, expert)


def test_merges_of_a_sweep_share_what_was_measured(monkeypatch):
    class Stored(dict):
        identity = property(lambda self: ("file", float(self["0.bias"][0])))

    experts = {name: Stored(weights(seed)) for seed, name in enumerate("ab", start=1)}
    samples, base = calibration({name: random(9, 6) for name in experts}), weights(0)
    expected = RegMean(samples, 0.5)(base, experts)
    monkeypatch.setattr(process_memory, "limit", 2**20)
    RegMean(samples)(base, experts)
    monkeypatch.setattr(RegMean, "_measure", None)  # would be called if anything were measured again
    torch.testing.assert_close(RegMean(samples, 0.5)(base, experts), expected)
    with pytest.raises(TypeError):
        RegMean(calibration({name: random(8, 6) for name in experts}))(base, experts)


@pytest.mark.parametrize("off_diagonal", [-0.1, 1.1, float("nan"), "most"])
def test_hyper_parameters_are_checked(off_diagonal):
    with pytest.raises(ConfigError, match="RegMean: off_diagonal must be"):
        RegMean(calibration({}), off_diagonal)


def test_the_config_has_the_defaults():
    config = yaml.safe_load((ROOT / "conf" / "model" / "regmean.yaml").read_text())
    assert config.pop("_target_") == "fusion_eval.merging.RegMean"
    assert config.pop("calibration") == "${calibration}"
    assert config == {name: value for name, value in vars(RegMean(calibration({}))).items() if name != "calibration"}
