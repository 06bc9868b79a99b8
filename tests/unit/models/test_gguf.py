"""GGUF files, against the tensors that were written into them as llama.cpp's converter writes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fusion_eval.errors import CheckpointError
from fusion_eval.merging import Base
from fusion_eval.models import ModelPool, load_state_dict

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("accelerate", reason="the package accelerate is not installed")

HEADS, KEYS, WIDTH, LAYERS, VOCABULARY = 4, 2, 32, 2, 48


def architecture():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEYS,
            tie_word_embeddings=True,
        )
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return architecture()


def interleaved(weight, heads):
    """Rows in the order of llama.cpp's rotary embedding: the two halves of each head one after the other in turn."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def path(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("gguf") / "llama.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(LAYERS):
        for stored, name in names.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            if heads := {"attn_q": HEADS, "attn_k": KEYS}.get(stored):
                weight = np.ascontiguousarray(interleaved(weight, heads))
            writer.add_tensor(f"blk.{layer}.{stored}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_are_read_under_the_names_of_transformers(path, model):
    read = load_state_dict(path)
    assert read.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(read[name], tensor, atol=0, rtol=0)


def test_a_file_is_the_base_of_a_model_pool(path, model):
    pool = ModelPool(architecture, str(path), {})
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        merged = pool.merge(Base()).eval()(tokens).logits
        torch.testing.assert_close(merged, model.eval()(tokens).logits)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_cut_file_is_refused(path, tmp_path, share):
    whole = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut\.gguf: cannot be read as a GGUF file"):
        load_state_dict(tmp_path / "cut.gguf")


def test_something_else_under_that_name_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_text("no such thing, but long enough to have the length of a header")
    with pytest.raises(CheckpointError, match=r"model\.gguf: cannot be read as a GGUF file"):
        load_state_dict(tmp_path / "model.gguf")
