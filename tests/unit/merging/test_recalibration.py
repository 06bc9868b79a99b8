"""Recalibrated: against torch's own update_bn, and what must always hold."""

from pathlib import Path

import calibrated
import pytest
import torch
import yaml
from calibrated import CLASSES, random
from torch import nn
from torch.optim.swa_utils import update_bn

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, EmrMerging, TaskArithmetic
from fusion_eval.merging.adamerging import AdaMerging
from fusion_eval.merging.recalibration import Recalibrated

ROOT = Path(__file__).parents[3]


def network():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)
    )


def calibration(inputs, architecture=network):
    return calibrated.calibration(inputs, architecture)


def weights(seed, architecture=network):
    state = {
        name: random(*tensor.shape, seed=seed) if tensor.is_floating_point() else tensor + seed
        for name, tensor in architecture().state_dict().items()
    }
    return {name: tensor.abs() + 0.5 if name.endswith("var") else tensor for name, tensor in state.items()}


@pytest.fixture
def merge():
    """Base, experts, and calibration samples: 96 of each task, of different scales."""
    experts = {name: weights(seed) for seed, name in enumerate("ab", start=1)}
    inputs = {name: scale * random(96, 6, seed=seed) for seed, (name, scale) in enumerate({"a": 1.0, "b": 3.0}.items())}
    return weights(0), experts, inputs


def statistics(state):
    return {name for name in state if name.partition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}


def test_equals_update_bn(merge):
    base, experts, inputs = merge
    samples = calibration(inputs)
    found = Recalibrated(Average(), samples)(base, experts)
    model = network()
    model.load_state_dict(Average()(base, experts))
    update_bn([batch for name in experts for batch in samples.batches(name)], DropoutOff(model))
    expected = model.state_dict()
    assert len(statistics(expected)) == 6
    assert expected["1.num_batches_tracked"] == 6  # 3 batches of each task
    torch.testing.assert_close(found, dict(expected))


class DropoutOff(nn.Module):
    """`update_bn` puts everything in training mode, and so random numbers into the second statistics."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        self.model[3].eval()
        return self.model(inputs)


def test_everything_else_is_as_the_method_leaves_it(merge):
    base, experts, inputs = merge
    found, plain = (
        Recalibrated(TaskArithmetic(0.4), calibration(inputs))(base, experts),
        TaskArithmetic(0.4)(base, experts),
    )
    different = {name for name, tensor in found.items() if not torch.equal(tensor, plain[name])}
    assert different == statistics(plain)


def test_the_activations_are_normalised_again(merge):
    base, experts, inputs = merge
    model = network()
    for method, centred in ((Average(), False), (Recalibrated(Average(), calibration(inputs)), True)):
        model.load_state_dict(method(base, experts))
        normalised = nn.functional.batch_norm(
            model[0](torch.cat(list(inputs.values()))), model[1].running_mean, model[1].running_var
        )
        assert bool(normalised.mean(dim=0).abs().max() < 1e-2) is centred


def test_tasks_count_the_same_however_many_samples_they_have(merge):
    base, experts, inputs = merge
    few = inputs | {"b": inputs["b"][:32]}
    found = Recalibrated(Average(), calibration(few))(base, experts)
    repeated = inputs | {"b": inputs["b"][:32].repeat(3, 1)}
    samples = calibration(repeated)
    hidden = {name: torch.cat([batch[0] for batch in samples.batches(name)]) for name in experts}
    merged = Average()(base, experts)
    means = [nn.functional.linear(rows, merged["0.weight"], merged["0.bias"]).mean(dim=0) for rows in hidden.values()]
    torch.testing.assert_close(found["1.running_mean"], (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-4)
    assert found["1.num_batches_tracked"] == 6


def test_statistics_that_are_not_kept_are_left_out():
    def architecture():
        return nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8, track_running_stats=False),
            nn.BatchNorm1d(8, affine=False),
            nn.Linear(8, CLASSES),
        )

    base, experts = weights(0, architecture), {"a": weights(1, architecture)}
    found = Recalibrated(Average(), calibration({"a": random(64, 6)}, architecture))(base, experts)
    assert found.keys() == base.keys()
    assert found["2.num_batches_tracked"] == 2


def test_a_model_without_batch_norm_is_refused_before_anything_is_merged():
    def architecture():
        return nn.Linear(6, CLASSES)

    with pytest.raises(MergeError, match="no BatchNorm"):
        Recalibrated(Average(), calibration({}, architecture))(architecture().state_dict(), {})


def test_the_record_has_that_of_the_method(merge):
    base, experts, inputs = merge
    samples = calibration(inputs)
    assert Recalibrated(Average(), samples).record(base, experts) == {"recalibration": samples.record("ab")}
    both = Recalibrated(AdaMerging(samples, "task", steps=1), samples).record(base, experts)
    assert both.keys() == {"calibration", "coefficients", "recalibration"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "average"}, "method must be a merging method, such as Average, got 'average'"),
        ({"method": EmrMerging()}, "EmrMerging makes a model for each task"),
        ({"calibration": None}, "calibration must be a fusion_eval"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ConfigError, match=text):
        Recalibrated(**{"method": Average(), "calibration": calibration({}), **arguments})


def test_the_config_names_the_class():
    config = yaml.safe_load((ROOT / "conf" / "model" / "recalibrated.yaml").read_text())
    assert config["_target_"] == "fusion_eval.merging.Recalibrated"
    assert config["calibration"] == "${calibration}"
