from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

from fusion_eval.engine.description import Description
from fusion_eval.errors import CheckpointError, ConfigError, TaskError
from fusion_eval.models import Backbone, CheckpointHead, fit_state_dict, load_state_dict

transformers = pytest.importorskip("transformers")

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
VIT = {**BERT, "image_size": 16, "patch_size": 8}
GPT = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50, **IDS}
BART = {
    "d_model": 16,
    **{
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
    },
    "vocab_size": 50,
    **IDS,
}
CLASSIFIERS = {
    "ViTForImageClassification": VIT,
    "Dinov2ForImageClassification": VIT,
    "BeitForImageClassification": VIT,
    "SwinForImageClassification": {"image_size": 16, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4},
    "ConvNextForImageClassification": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "ResNetForImageClassification": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "BertForSequenceClassification": BERT,
    "RobertaForSequenceClassification": BERT,
    "DistilBertForSequenceClassification": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
    "GPT2ForSequenceClassification": {**GPT, "pad_token_id": 0},
    "LlamaForSequenceClassification": {**BERT, "pad_token_id": 0},
    "MistralForSequenceClassification": {**BERT, "pad_token_id": 0, "num_key_value_heads": 1},
    "Qwen2ForSequenceClassification": {**BERT, "pad_token_id": 0, "num_key_value_heads": 1},
    "OPTForSequenceClassification": {**BERT, "ffn_dim": 32, "word_embed_proj_dim": 16, "pad_token_id": 0},
    "AlbertForSequenceClassification": {**BERT, "embedding_size": 8},
    "ElectraForSequenceClassification": {**BERT, "embedding_size": 8},
    "DebertaV2ForSequenceClassification": BERT,
    "MPNetForSequenceClassification": BERT,
    "XLNetForSequenceClassification": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 50},
    "T5ForSequenceClassification": T5,
    "MT5ForSequenceClassification": T5,
    "UMT5ForSequenceClassification": T5,
    "BartForSequenceClassification": BART,
    "MBartForSequenceClassification": BART,
}


def classifier(name, **changes):
    torch.manual_seed(4)
    config = getattr(transformers, f"{name.partition('For')[0]}Config")(
        **{**CLASSIFIERS[name], "num_labels": 3, **changes}
    )
    return getattr(transformers, name)(config).eval()


def auto_class(name):
    return f"AutoModelFor{name.partition('For')[2]}"


def inputs_of(name):
    draw = torch.Generator().manual_seed(1)
    if "Image" in name:
        return torch.randn(4, 3, 16, 16, generator=draw)
    ids, mask = torch.randint(3, 50, (4, 7), generator=draw), torch.ones(4, 7, dtype=torch.long)
    ids[1, 4:], mask[1, 4:] = 0, 0  # padded on the right
    ids[[0, 1, 2, 3], [6, 3, 6, 6]] = 2  # the end of each text, which encoder-decoders classify
    return {"input_ids": ids, "attention_mask": mask}


def called(model, inputs):
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def loaded(path, name):
    backbone = Backbone(str(path), auto_class(name))().eval()
    backbone.load_state_dict(fit_state_dict(load_state_dict(path), backbone.state_dict(), str(path)))
    return backbone


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_backbone_and_head_are_together_the_classifier(name, tmp_path):
    model, inputs = classifier(name), inputs_of(name)
    model.save_pretrained(tmp_path)
    output = called(loaded(tmp_path, name), inputs)
    logits = CheckpointHead(str(tmp_path)).load().eval()(output, inputs)
    assert torch.equal(logits, called(model, inputs).logits)


@torch.no_grad()
def test_a_classifier_that_gives_its_backbone_more_than_it_was_given_is_refused(tmp_path):
    """Longformer's lets the first token attend to all others, which a backbone that runs alone does not know."""
    config = transformers.LongformerConfig(**BERT, attention_window=4, pad_token_id=0, num_labels=3)
    transformers.LongformerForSequenceClassification(config).save_pretrained(tmp_path)
    name = "LongformerForSequenceClassification"
    inputs = inputs_of(name)
    output = called(loaded(tmp_path, name), inputs)
    with pytest.raises(TaskError, match="gives its backbone global_attention_mask too, which it did not get"):
        CheckpointHead(str(tmp_path)).load()(output, inputs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_two_parts_share_all_tensors_of_the_checkpoint(name, tmp_path):
    model = classifier(name)
    model.save_pretrained(tmp_path)
    stored = load_state_dict(tmp_path)
    prefix = f"{model.base_model_prefix}."
    assert {prefix + key for key in loaded(tmp_path, name).state_dict()} >= {
        key for key in stored if key.startswith(prefix)
    }
    head = CheckpointHead(str(tmp_path)).load().state_dict()
    assert {key.removeprefix("classifier.") for key in head} == {key for key in stored if not key.startswith(prefix)}


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification"])
def test_names_are_those_of_files_in_and_out(name, tmp_path):
    model = classifier(name)
    model.save_pretrained(tmp_path)
    backbone, prefix = loaded(tmp_path, name), f"{model.base_model_prefix}."
    names = [key.removeprefix(prefix) for key in load_state_dict(tmp_path) if key.startswith(prefix)]
    assert sorted(backbone.state_dict()) == sorted(names)
    other = Backbone(str(tmp_path), auto_class(name))()
    other.load_state_dict(backbone.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), backbone.parameters(), strict=True))
    nested = torch.nn.ModuleDict({"inner": backbone})
    assert sorted(nested.state_dict()) == sorted(f"inner.{key}" for key in names)
    nested.load_state_dict(nested.state_dict())


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["ViTForImageClassification", "ConvNextForImageClassification", "GPT2ForSequenceClassification"]
)
def test_both_parts_can_be_copied_sent_and_described(name, tmp_path):
    classifier(name).save_pretrained(tmp_path)
    inputs, parts = inputs_of(name), (loaded(tmp_path, name), CheckpointHead(str(tmp_path)).load().eval())
    expected = parts[1](called(parts[0], inputs), inputs)
    for backbone, head in (copy.deepcopy(parts), pickle.loads(pickle.dumps(parts))):
        assert torch.equal(head(called(backbone, inputs), inputs), expected)
        assert Description().add(backbone, head) == Description().add(*parts)


def test_where_a_checkpoint_lies_does_not_show(tmp_path):
    for place in ("here", "there"):
        classifier("ViTForImageClassification").save_pretrained(tmp_path / place)
    first, second = (loaded(tmp_path / place, "ViTForImageClassification") for place in ("here", "there"))
    assert Description().add(first) == Description().add(second)


def test_a_head_keeps_no_output_behind(tmp_path):
    classifier("ViTForImageClassification").save_pretrained(tmp_path)
    inputs, head = inputs_of("ViTForImageClassification"), CheckpointHead(str(tmp_path)).load()
    output = loaded(tmp_path, "ViTForImageClassification")(inputs)
    head(output, inputs)
    assert head.classifier.base_model.output is None
    with pytest.raises(
        TaskError, match="the head of ViTForImageClassification failed on the model's output: Attribute"
    ):
        head({"features": torch.zeros(4, 16)}, inputs)
    assert head.classifier.base_model.output is None


def test_a_checkpoint_in_half_precision_gives_a_head_in_float32(tmp_path):
    classifier("BertForSequenceClassification").bfloat16().save_pretrained(tmp_path)
    parts = [loaded(tmp_path, "BertForSequenceClassification"), CheckpointHead(str(tmp_path)).load()]
    assert {tensor.dtype for part in parts for tensor in part.parameters()} == {torch.float32}


def test_a_backbone_is_no_head(tmp_path):
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="BertModel is a backbone without a head; a head is read from a fine-tuned"
    ):
        CheckpointHead(str(tmp_path)).load()


@pytest.mark.parametrize(("names", "found"), [(["OurOwnNet"], "OurOwnNet"), (None, "nothing")])
def test_an_architecture_that_transformers_does_not_have_is_named(names, found, tmp_path):
    classifier("BertForSequenceClassification").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": names}))
    with pytest.raises(CheckpointError, match=f"architectures names {found}, no class of transformers"):
        CheckpointHead(str(tmp_path)).load()


def test_a_head_of_another_size_is_refused(tmp_path):
    classifier("BertForSequenceClassification").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}, "label2id": {}}))
    with pytest.raises(CheckpointError, match=r"do not fit the architecture: .*classifier\.bias"):
        CheckpointHead(str(tmp_path)).load()


def test_a_model_without_such_a_classifier_is_refused(tmp_path):
    transformers.T5Config(vocab_size=20).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no AutoModelForImageClassification for model_type 't5'"):
        Backbone(str(tmp_path), "AutoModelForImageClassification")()


@pytest.mark.parametrize("name", ["AutoModelForImageClasification", "BertModel"])
def test_an_unknown_auto_class_is_refused(name, tmp_path):
    transformers.T5Config(vocab_size=20).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"AutoModelForImageClassification"):
        Backbone(str(tmp_path), name)()


def test_a_checkpoint_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="absent: no such file or directory"):
        Backbone(str(tmp_path / "absent"), "AutoModel")()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        CheckpointHead(str(tmp_path)).load()
