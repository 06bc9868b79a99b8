from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward, logits_of

MATRIX = torch.arange(6.0).reshape(2, 3)


def tiny_vit():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)).eval()


def tiny_text_encoder():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=20, **sizes)).eval()


def test_a_tensor_is_the_logits():
    assert logits_of(MATRIX, None, None) is MATRIX


@pytest.mark.parametrize("wrap", [dict, UserDict])
def test_logits_are_found_in_any_mapping(wrap):
    assert logits_of(wrap({"loss": None, "logits": MATRIX}), None, None) is MATRIX


def test_logits_are_found_in_the_output_of_a_hugging_face_classifier():
    model, images = tiny_vit(), torch.randn(2, 3, 8, 8)
    output = forward(model, images)
    assert torch.equal(logits_of(output, None, None), model(pixel_values=images).logits)


def test_a_mapping_of_inputs_becomes_keyword_arguments_and_the_head_gets_the_pooled_features():
    model, head = tiny_text_encoder(), nn.Linear(8, 4)
    inputs = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    expected = head(model(**inputs).pooler_output)
    assert torch.equal(logits_of(forward(model, inputs), head, inputs), expected)


@pytest.mark.parametrize("name", ["features", "image_embeds", "text_embeds", "pooler_output"])
def test_a_head_takes_the_features_and_never_the_logits(name):
    head = nn.Linear(3, 5)
    output = {"logits": MATRIX + 1, "last_hidden_state": torch.zeros(2, 7, 3), name: MATRIX}
    assert torch.equal(logits_of(output, head, None), head(MATRIX))


def test_a_named_feature_that_is_none_is_skipped():
    head = nn.Identity()
    assert logits_of({"image_embeds": None, "pooler_output": MATRIX}, head, None) is MATRIX


@pytest.mark.parametrize(
    ("output", "head", "message"),
    [
        ((MATRIX,), None, "returned tuple; expected a tensor or a mapping with logits"),
        (None, None, "returned NoneType"),
        ({"prediction": MATRIX}, None, "returned a mapping with prediction; expected .* with logits"),
        ({"logits": None}, None, "returned a mapping with logits"),
        ({"pooler_output": MATRIX}, None, "makes logits by a head, and has none: do model pool and task pool go tog"),
        ({"logits": MATRIX}, nn.Linear(3, 2), "mapping with features or image_embeds or text_embeds or pooler_output"),
        (torch.zeros(2), None, r"logits should have shape \(samples, width\), found \(2,\)"),
        (torch.zeros(2, 3, 4), None, r"logits should have shape .* found \(2, 3, 4\)"),
        (torch.zeros(2, 7, 3), nn.Linear(3, 2), r"features should have shape .* found \(2, 7, 3\)"),
        ({"logits": [1, 2]}, None, "logits should have shape .* found list"),
        (MATRIX, nn.Linear(4, 2), "features have width 3, the head of the task takes 4"),
        (MATRIX, nn.Unflatten(1, (3, 1)), "logits of the head should have shape"),
    ],
)
def test_what_cannot_be_read_is_refused(output, head, message):
    with pytest.raises(TaskError, match=message):
        logits_of(output, head, None)


def test_a_head_that_takes_the_output_finds_its_features_itself():
    class Head(nn.Module):
        takes_output = True

        def forward(self, output, inputs):
            return output["states"][:, -1] * inputs["mask"][:, None]

    states, mask = torch.ones(2, 5, 3), torch.tensor([1.0, 2.0])
    found = logits_of({"states": states}, Head(), {"mask": mask})
    assert found.tolist() == [[1.0] * 3, [2.0] * 3]


def test_a_token_that_the_model_does_not_have_hints_at_the_tokenizer():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = transformers.BertModel(config)
    with pytest.raises(TaskError, match="there is a token 30, but the model has 30: is the tokenizer that of its base"):
        forward(model, {"input_ids": torch.tensor([[3, 30]])})
    with pytest.raises(TaskError) as failed:
        forward(model, {"input_ids": torch.tensor([[3.0, 4.0]])})
    assert "tokenizer" not in str(failed.value)
