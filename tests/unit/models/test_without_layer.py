from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusion_eval import ModelPool
from fusion_eval.errors import ConfigError
from fusion_eval.merging import Expert
from fusion_eval.models import LinearHead, without_layer


def classifier(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, classes)))


def test_backbone_and_head_together_are_the_classifier(tmp_path):
    made = {name: classifier(classes) for name, classes in (("base", 9), ("dtd", 4))}
    for name, model in made.items():
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    files = {name: str(tmp_path / f"{name}.safetensors") for name in made}
    pool = ModelPool(
        partial(without_layer, partial(classifier, 1000), "2.1"),
        files["base"],
        {"dtd": files["dtd"]},
        {"dtd": LinearHead(files["dtd"], "2.1.")},
        leave_out=["2.1.*"],
    )
    model, inputs = pool.merge(Expert("dtd")), torch.randn(3, 3, 2, 2)
    assert torch.equal(model.heads["dtd"](model.backbone(inputs)), made["dtd"](inputs))


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"Sequential has no layer '2.3'; did you mean '2.1'"):
        without_layer(partial(classifier, 2), "2.3")
