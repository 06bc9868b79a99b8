"""Heads of LoRA adapters; those of whole checkpoints are in test_hugging_face.py."""

from __future__ import annotations

import json

import pytest
import torch

from fusion_eval.errors import CheckpointError
from fusion_eval.merging import Expert
from fusion_eval.models import Backbone, CheckpointHead, ModelPool

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}


def save(path, kind, labels, **settings):
    """A base, and an adapter of it with a trained head; the classifier that they make."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZE, pad_token_id=0, initializer_range=0.5, num_labels=labels)
    classifier = transformers.AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.save_pretrained(path / "base")
    settings = {"task_type": "SEQ_CLS", "target_modules": ["query", "q_proj"], **settings}
    adapted = peft.get_peft_model(classifier, peft.LoraConfig(r=2, **settings)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(path / "adapter")
    return adapted


@pytest.mark.parametrize("named", [True, False], ids=["base given", "base as the adapter names it"])
@pytest.mark.parametrize(("kind", "labels"), [("bert", 3), ("roberta", 2), ("llama", 1)])
def test_base_adapter_and_head_are_the_classifier_that_was_trained(tmp_path, kind, labels, named):
    adapted = save(tmp_path, kind, labels)
    if not named:
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    base, adapter = str(tmp_path / "base"), str(tmp_path / "adapter")
    pool = ModelPool(Backbone(base, "AutoModelForSequenceClassification"), base, {"task": adapter})
    model, head = pool.merge(Expert("task")).eval(), CheckpointHead(adapter, base if named else None).load().eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]), "attention_mask": torch.ones(2, 4).long()}
    inputs["attention_mask"][0, 3] = 0
    with torch.inference_mode():
        torch.testing.assert_close(head(model(**inputs), inputs), adapted(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_what_is_no_head_is_named(tmp_path):
    save(tmp_path, "bert", 3)
    head = CheckpointHead(str(tmp_path / "adapter"), str(tmp_path / "base"))
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    with pytest.raises(CheckpointError, match="task_type is 'CAUSAL_LM'; a head is read from an adapter of 'SEQ_CLS'"):
        head.load()
    file.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="does not name its base"):
        CheckpointHead(head.path).load()
    file.write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "lora" in name}, weights)
    with pytest.raises(CheckpointError, match="the adapter holds no head, only its factors; PEFT stores what"):
        head.load()
