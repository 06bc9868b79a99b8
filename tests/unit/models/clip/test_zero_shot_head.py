from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPVisionModel

from fusion_eval.config import build, to_config
from fusion_eval.errors import CheckpointError, ConfigError
from fusion_eval.models import CLIPTextTower, ZeroShotHead, clip_vision_model, load_state_dict
from fusion_eval.models.clip import text_tower, zero_shot_head

TASKS = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
ANIMALS = ("cat", "dog", "photo of a bear, a close up")


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(5, 3, 32, 32)).astype(np.float32))


@pytest.fixture(scope="module")
def model(oracle):
    return CLIPModel.from_pretrained(oracle / "base").eval()


@torch.no_grad()
def logits(head, model, pixels):
    return head.load()(model.vision_model(pixels).pooler_output)


def head_of(checkpoint, classes=ANIMALS, templates=("a {}.",)):
    return ZeroShotHead(CLIPTextTower(str(checkpoint)), classes, templates)


def edited(checkpoint, **changes):
    """The checkpoint with other tensors."""
    file = checkpoint / "model.safetensors"
    tensors = {name.replace("/", "."): tensor for name, tensor in changes.items()}
    save_file({**load_file(file), **tensors}, file)
    return checkpoint


def test_with_one_template_the_logits_are_those_of_transformers(oracle, model, pixels):
    tokens = AutoTokenizer.from_pretrained(oracle / "base")(
        [f"a {name}." for name in ANIMALS], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(pixel_values=pixels, **tokens).logits_per_image
    torch.testing.assert_close(logits(head_of(oracle / "base"), model, pixels), expected, atol=1e-5, rtol=0)


def test_several_templates_are_averaged_on_the_sphere(oracle, model, pixels):
    templates = ("a {}.", "the {}, a thing of beauty", "{}")
    tokenizer = AutoTokenizer.from_pretrained(oracle / "base")
    rows = []
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixels).pooler_output).double()
        for name in ANIMALS:  # the definition, one prompt at a time
            total = 0
            for template in templates:
                tokens = tokenizer(template.replace("{}", name), return_tensors="pt")
                vector = model.text_projection(model.text_model(**tokens).pooler_output)[0].double()
                total = total + vector / vector.norm()
            rows.append(total / total.norm())
        cosine = image / image.norm(dim=1, keepdim=True) @ torch.stack(rows).T
        expected = (cosine * model.logit_scale.double().exp()).float()
    torch.testing.assert_close(
        logits(head_of(oracle / "base", templates=templates), model, pixels), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_logits_are_those_of_fusion_bench(oracle, task):
    golden = load_file(oracle / "golden.safetensors")
    encoder = CLIPVisionModel.from_pretrained(oracle / "first").eval()
    processor = CLIPImageProcessorPil.from_pretrained(oracle / "base")
    images = [Image.fromarray(image.numpy()) for image in golden[f"{task}/images"]]
    head = ZeroShotHead(CLIPTextTower(str(oracle / "base")), task).load()
    with torch.no_grad():
        found = head(encoder(processor(images, return_tensors="pt").pixel_values).pooler_output)
    torch.testing.assert_close(found, golden[f"{task}/logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 7, 30])
def test_how_many_prompts_share_a_batch_does_not_matter(oracle, model, pixels, monkeypatch, batch):
    expected = logits(ZeroShotHead(CLIPTextTower(str(oracle / "base")), "eurosat"), model, pixels)
    monkeypatch.setattr(text_tower, "_PROMPTS", batch)
    monkeypatch.setattr(text_tower, "_ROWS", batch)
    monkeypatch.setattr(zero_shot_head, "_VERSION", batch)  # builds anew
    found = logits(ZeroShotHead(CLIPTextTower(str(oracle / "base")), "eurosat"), model, pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_prompt_longer_than_the_context_is_cut_and_keeps_its_end_token(oracle, model, pixels, caplog):
    long = " ".join(["crane"] * 200)
    tokenizer = AutoTokenizer.from_pretrained(oracle / "base")
    ids = tokenizer(f"a {long}.").input_ids
    assert len(ids) > 77
    cut = torch.tensor([[*ids[:76], ids[-1]]])  # tokens[:77] with the last one replaced, as openai/CLIP does
    with torch.no_grad():
        expected = model(input_ids=cut, pixel_values=pixels).logits_per_image
    found = logits(head_of(oracle / "base", ["cat", long]), model, pixels)
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-5, rtol=0)
    assert "prompts longer than 77 tokens are cut: a crane crane" in caplog.text


def test_no_prompt_of_a_data_set_is_cut(oracle, caplog):
    for name in ("mnist", "pcam"):
        ZeroShotHead(CLIPTextTower(str(oracle / "base")), name).load()
    assert caplog.text == ""


def test_a_head_may_be_cast(oracle, model, pixels):
    head = head_of(oracle / "base")
    exact = logits(head, model, pixels)
    with torch.no_grad():
        rough = head.load().bfloat16()(model.vision_model(pixels).pooler_output.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.3, rtol=0)


def test_a_checkpoint_in_half_precision_is_computed_in_single(checkpoint, model, pixels):
    exact = logits(head_of(checkpoint), model, pixels)
    file = checkpoint / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    rounded = logits(head_of(checkpoint), model, pixels)
    assert {buffer.dtype for buffer in head_of(checkpoint).load().buffers()} == {torch.float32}
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_broken_file_is_named(checkpoint, name):
    (checkpoint / name).write_text("{")
    with pytest.raises(CheckpointError, match="clip: configuration or tokenizer cannot be read: "):
        head_of(checkpoint).load()


def test_the_position_ids_of_old_checkpoints_are_no_weights(checkpoint, model, pixels):
    expected = logits(head_of(checkpoint), model, pixels)
    old = edited(checkpoint, **{"text_model/embeddings/position_ids": torch.arange(77)[None]})
    assert torch.equal(logits(head_of(old), model, pixels), expected)


def test_the_gelu_of_the_configuration_decides(checkpoint, model, pixels):
    quick = logits(head_of(checkpoint), model, pixels)
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["hidden_act"] = "gelu"
    file.write_text(json.dumps(config))
    assert not torch.allclose(logits(head_of(checkpoint), model, pixels), quick, atol=1e-3)


def test_a_vision_encoder_has_no_text_tower(oracle):
    with pytest.raises(
        CheckpointError, match=r"first: no text tower: .*text_projection\.weight.*give a whole CLIPModel"
    ):
        head_of(oracle / "first").load()


def test_weights_of_another_architecture_are_refused(checkpoint):
    edited(checkpoint, **{"text_model/final_layer_norm/weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"do not fit.*final_layer_norm\.weight"):
        head_of(checkpoint).load()


def test_without_a_tokenizer_there_is_no_head(checkpoint):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
        (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=r"clip: no tokenizer: neither tokenizer\.json nor vocab\.json is there"):
        head_of(checkpoint).load()


@pytest.mark.parametrize("place", ["/no/such/place", "pkg://fusion_eval.zoo/base.safetensors"])
def test_a_checkpoint_that_is_not_there_is_named(place):
    with pytest.raises(CheckpointError, match=f"^{place}: no such file or directory$"):
        head_of(place).load()


def test_a_file_is_no_checkpoint_of_transformers(checkpoint):
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: expected a directory of CLIPModel\.save_pretrained"
    ):
        head_of(checkpoint / "model.safetensors").load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "sun379"}, "classes: 'sun379' is no data set and no YAML file; did you mean 'sun397'?"),
        ({"classes": ["cat"]}, "templates: expected a list of strings"),
        ({"classes": [], "templates": ["{}"]}, "classes: expected a list of strings"),
        ({"classes": [1], "templates": ["{}"]}, "classes: 1 is no text"),
        ({"classes": "dtd", "templates": ["a photo"]}, "templates: 'a photo' has no {} where"),
        ({"classes": "dtd", "templates": []}, "templates: expected a list of strings"),
        ({"classes": 3}, "classes: expected a list of strings"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(arguments, message):
    with pytest.raises(ConfigError) as refusal:
        ZeroShotHead(CLIPTextTower("/no/such/place"), **arguments)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    "head",
    [
        ZeroShotHead(CLIPTextTower("openai/clip-vit-base-patch32"), "dtd"),
        ZeroShotHead(CLIPTextTower("openai/clip-vit-base-patch32"), ["cat", "お"], ["a {}."]),
    ],
    ids=["known", "own"],
)
def test_a_head_is_a_value_that_yaml_can_hold(head):
    assert build(to_config(head)) == head
    assert hash(build(to_config(head))) == hash(head)
    with pytest.raises(FrozenInstanceError):
        head.classes = "sun397"


def test_the_architecture_is_that_of_the_checkpoint(oracle, pixels):
    weights = load_state_dict(oracle / "first")
    built = clip_vision_model(str(oracle / "first"))
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == {
        name: weights[f"vision_model.{name}"].shape for name in built.state_dict()
    }
    whole = clip_vision_model(str(oracle / "base"))
    assert whole.state_dict().keys() == built.state_dict().keys()
    assert whole.config.name_or_path == built.config.name_or_path == ""  # where it lies decides nothing


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="describes model_type 'vit'; expected clip or clip_vision_model"):
        clip_vision_model(str(tmp_path))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\xff"])
def test_a_broken_configuration_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        clip_vision_model(str(tmp_path))
