from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fusion_eval import DummyTaskPool, MergedModel
from fusion_eval.errors import ConfigError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def test_shared_parameters_count_once_and_frozen_ones_are_not_trainable():
    model = nn.Sequential(Tied(), nn.Linear(2, 2).bfloat16())
    model[1].weight.requires_grad_(False)
    assert DummyTaskPool().evaluate(model) == {
        "model": {"parameters": 15 + 6, "trainable_parameters": 15 + 2, "bytes": 15 * 4 + 6 * 2}
    }


def test_a_safetensors_file_holds_the_backbone_and_loads_again(tmp_path):
    backbone = Tied()
    backbone.out.register_parameter("transposed", nn.Parameter(torch.randn(4, 3).T))  # not contiguous
    path = tmp_path / "new" / "merged.safetensors"
    DummyTaskPool(str(path)).evaluate(MergedModel(backbone, {"mnist": nn.Linear(5, 2)}))
    stored = load_file(path)
    assert stored["out.transposed"].equal(backbone.out.transposed)
    assert len(stored) == 2  # the tied tensor once, and no head
    assert next(tensor for name, tensor in stored.items() if name != "out.transposed").equal(backbone.embed.weight)


def test_a_directory_is_a_hugging_face_model(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=20, **sizes))
    DummyTaskPool(str(tmp_path / "bert")).evaluate(MergedModel(model, {}))
    again = BertModel.from_pretrained(tmp_path / "bert")
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_a_directory_for_a_model_that_cannot_save_itself_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"save_path: Linear has no save_pretrained; give a .safetensors file, not .*out"
    ):
        DummyTaskPool(str(tmp_path / "out")).evaluate(nn.Linear(1, 1))
    assert not (tmp_path / "out").exists()
