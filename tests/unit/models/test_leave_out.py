"""Checkpoints that hold more than the backbone, and backbones whose tensors have other names in files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fusion_eval import ModelPool
from fusion_eval.errors import CheckpointError, ConfigError
from fusion_eval.merging import Average
from fusion_eval.merging.linear_layers import linear_layers
from fusion_eval.merging.state_dict import named_parameters
from fusion_eval.models import Backbone, LinearHead

NAMES = ("base", "one", "two")


@pytest.fixture
def stored(tmp_path):
    """Classifiers with the last layer `fc`, as torchvision and timm save them."""
    torch.manual_seed(0)
    shapes = {"weight": (2, 3), "bias": (2,), "fc.weight": (5, 2), "fc.bias": (5,)}
    weights = {name: {key: torch.randn(shape) for key, shape in shapes.items()} for name in NAMES}
    for name, tensors in weights.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return weights


def pool(folder, **fields):
    paths = {name: str(folder / f"{name}.safetensors") for name in NAMES}
    base = paths.pop("base")
    return ModelPool(lambda: nn.Linear(3, 2), base, paths, **fields)


def test_a_classifier_beside_the_backbone_is_left_out_and_becomes_the_head(stored, tmp_path):
    heads = {name: LinearHead(str(tmp_path / f"{name}.safetensors"), "fc.") for name in ("one", "two")}
    model = pool(tmp_path, heads=heads, leave_out=["fc.*"]).merge(Average(), str(tmp_path / "merged.safetensors"))
    mean = (stored["one"]["weight"] + stored["two"]["weight"]) / 2
    assert torch.allclose(model.backbone.weight, mean)
    assert torch.equal(model.heads["two"].weight, stored["two"]["fc.weight"])
    assert torch.equal(model.heads["two"].bias, stored["two"]["fc.bias"])
    saved = load_file(tmp_path / "merged.safetensors")
    assert torch.equal(saved["fc.weight"], stored["base"]["fc.weight"])
    assert torch.equal(saved["weight"], model.backbone.weight)


@pytest.mark.parametrize("patterns", [[], ["head.*"], ["fc.weight"]])
def test_what_is_not_left_out_is_unexpected(stored, tmp_path, patterns):
    with pytest.raises(CheckpointError, match=r"unexpected: .*fc"):
        pool(tmp_path, leave_out=patterns).merge(Average())


def test_what_the_backbone_needs_cannot_be_left_out(stored, tmp_path):
    with pytest.raises(CheckpointError, match="missing: bias"):
        pool(tmp_path, leave_out=["fc.*", "bias"]).merge(Average())


def test_names_to_leave_out_are_a_list():
    with pytest.raises(ConfigError, match=r"leave_out must be a list of names, got 'fc\.\*'"):
        ModelPool(nn.Identity, "nowhere", {}, leave_out="fc.*")


def test_a_head_below_no_such_prefix_is_named(stored, tmp_path):
    with pytest.raises(CheckpointError, match=r"below the prefix 'head\.': a linear head is"):
        LinearHead(str(tmp_path / "one.safetensors"), "head.").load()


def test_parameters_and_layers_have_the_names_of_the_state_dict(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path), "AutoModelForImageClassification")()
    held = backbone.state_dict()
    assert list(named_parameters(backbone)) == list(held)
    layers = linear_layers(backbone, kernels=True)
    assert len(layers) == 2 * 6 + 1
    assert all(layer.modules[0].weight.data_ptr() == held[name].data_ptr() for name, layer in layers.items())


def test_tied_parameters_have_their_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight
            self.norm = nn.BatchNorm1d(3)

    model = Tied()
    assert list(named_parameters(model)) == [name for name, _ in model.named_parameters()]
    assert {name: layer.modules for name, layer in linear_layers(model, kernels=False).items()} == {
        "one.weight": (model.one, model.two)
    }
