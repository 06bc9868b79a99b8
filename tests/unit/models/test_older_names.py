from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5ForConditionalGeneration,
)

from fusion_eval.errors import CheckpointError
from fusion_eval.merging import Base
from fusion_eval.models import ModelPool, load_state_dict

TINY = {
    "vocab_size": 20,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 6,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
GPT2 = GPT2Config(**TINY)
BERT = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
T5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)


def rewrite(path, change):
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def merged(architecture, path):
    return ModelPool(architecture, str(path), {}).merge(Base()).backbone.state_dict()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_gpt2_of_the_hub_brings_its_causal_masks(tmp_path):
    model = GPT2Model(GPT2)
    model.save_pretrained(tmp_path)
    masks = {f"h.{layer}.attn.bias": torch.ones(6, 6).tril()[None, None] for layer in range(2)}
    rewrite(tmp_path, lambda stored: {**stored, **masks, "h.0.attn.masked_bias": torch.tensor(-1e4)})
    assert_equal(merged(lambda: GPT2Model(GPT2), tmp_path), model.state_dict())


def test_bert_of_the_hub_brings_positions_and_names_of_tensorflow(tmp_path):
    whole = BertForPreTraining(BERT)
    whole.save_pretrained(tmp_path)

    def age(stored):
        names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in stored}
        old = {names[name].replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in stored.items()}
        return {**old, "bert.embeddings.position_ids": torch.arange(512)[None]}

    rewrite(tmp_path, age)
    assert any("gamma" in name for name in load_file(tmp_path / "model.safetensors"))
    assert_equal(merged(lambda: BertModel(BERT), tmp_path), whole.bert.state_dict())
    assert load_state_dict(tmp_path).keys() >= {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"}


def test_t5_of_the_hub_brings_a_table_that_no_layer_reads(tmp_path):
    model = T5ForConditionalGeneration(T5)
    model.save_pretrained(tmp_path)
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    rewrite(tmp_path, lambda stored: {**stored, unused: torch.ones(32, 2)})
    assert_equal(merged(lambda: T5ForConditionalGeneration(T5), tmp_path), model.state_dict())


@pytest.mark.parametrize("name", ["h.0.attn.bias", "h.0.attn.c_attn.gamma", "h.2.ln_1.weight"])
def test_what_is_no_leftover_is_still_refused(tmp_path, name):
    GPT2Model(GPT2).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda stored: {**stored, name: torch.ones(8)})
    with pytest.raises(CheckpointError, match=f"1 unexpected: {name}"):
        merged(lambda: GPT2Model(GPT2), tmp_path)
