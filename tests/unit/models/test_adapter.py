"""LoRA adapters against what PEFT itself makes of them."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from fusion_eval.errors import CheckpointError
from fusion_eval.models.adapter import is_adapter, read_adapter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def gpt2(tied=True):
    config = GPT2Config(vocab_size=12, n_positions=8, n_embd=4, n_layer=2, n_head=1, tie_word_embeddings=tied)
    return GPT2LMHeadModel(config)


def llama(tied=False):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
        )
    )


def opt():
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=12, hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8
        )
    )


def vit():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4
        )
    )


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv1d(6, 4, 2), nn.Flatten(), nn.Linear(4, 4))


def normalised():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def copied(state_dict):
    """A copy in which tied names stay tied."""
    copies = {}
    return {name: copies.setdefault(tensor.data_ptr(), tensor.clone()) for name, tensor in state_dict.items()}


def randomise(adapted):
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator)


def adapt(model, directory, safe=True, **config):
    """Adapt a model at random, save the adapter; return the weights before, and those that PEFT merges."""
    base = copied(model.state_dict())
    adapted = get_peft_model(model, LoraConfig(**{"r": 2, "lora_alpha": 3} | config))
    randomise(adapted)
    adapted.save_pretrained(directory, safe_serialization=safe)
    return base, adapted.merge_and_unload().state_dict()


def assert_same(weights, expected):
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: name + text)


def edit_config(directory, **fields):
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_weights(directory, change):
    file = directory / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


CASES = {
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_fc"]}),
    "square Conv1D": (gpt2, {"target_modules": ["attn.c_proj"]}),
    "square Linear": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "Linear": (llama, {"target_modules": "all-linear"}),
    "rank-stabilised": (llama, {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "r": 4}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "down_proj", "k_proj"],
            "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 1},
            "alpha_pattern": {"roj": 9, r"1\.self_attn\.q_proj": 7, "^model.layers.0.self_attn.k_proj": 5},
        },
    ),
    "biases of adapted modules": (opt, {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
    "all biases": (opt, {"target_modules": ["q_proj", "fc1"], "bias": "all"}),
    "all biases of Conv1D": (gpt2, {"target_modules": ["c_attn"], "bias": "all"}),
    "modules to save": (vit, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier", "layernorm"]}),
    "module to save with an integer buffer": (normalised, {"target_modules": ["0"], "modules_to_save": ["1"]}),
    "convolution of patches": (vit, {"target_modules": ["projection", "q_proj"]}),
    "convolutions": (convolutions, {"target_modules": ["0", "1", "2", "4"]}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding and head, stored whole beside it": (llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "positions": (gpt2, {"target_modules": ["wpe"]}),
    "gaussian start": (llama, {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_what_peft_merges(case, tmp_path):
    build, config = CASES[case]
    base, merged = adapt(build(), tmp_path, **config)
    assert is_adapter(tmp_path)
    weights = read_adapter(str(tmp_path), base)
    assert_same(weights, merged)
    assert any(not torch.equal(weights[name], base[name]) for name in base)


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_adapted_is_the_tensor_of_the_base(case, tmp_path):
    build, config = CASES[case]
    base, merged = adapt(build(), tmp_path, **config)
    weights = read_adapter(tmp_path, base)
    untouched = [name for name in base.keys() - weights.replaced.keys() if torch.equal(merged[name], base[name])]
    assert all(weights[name] is base[name] for name in untouched)


def test_pickled_adapter(tmp_path):
    base, merged = adapt(llama(), tmp_path, target_modules=["q_proj"])
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    assert_same(read_adapter(tmp_path, base), merged)


def test_adapter_names_in_tensor_names(tmp_path):
    base, merged = adapt(llama(), tmp_path, target_modules=["q_proj", "embed_tokens"])

    def named(name):
        return (
            name.replace(".weight", ".default.weight") if "lora_A." in name or "lora_B." in name else name + ".default"
        )

    edit_weights(tmp_path, lambda stored: {named(name) if "lora" in name else name: t for name, t in stored.items()})
    assert_same(read_adapter(tmp_path, base), merged)


def test_embedding_layers_saved_though_not_adapted(tmp_path):
    model = llama()
    base = copied(model.state_dict())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)
    weights = read_adapter(tmp_path, base)
    assert torch.equal(weights["model.embed_tokens.weight"], base["model.embed_tokens.weight"] + 1)
    assert_same(weights, adapted.merge_and_unload().state_dict())


# Prefixes


def test_the_architecture_is_a_part_of_the_adapted_model(tmp_path):
    base, merged = adapt(vit(), tmp_path, target_modules=["q_proj"], modules_to_save=["classifier"])
    backbone = {name.removeprefix("vit."): tensor for name, tensor in base.items() if name.startswith("vit.")}
    weights = read_adapter(tmp_path, backbone)
    assert_same(weights, {name: merged["vit." + name] for name in backbone})


def test_the_adapted_model_is_a_part_of_the_architecture(tmp_path):
    base, merged = adapt(llama(), tmp_path, target_modules=["q_proj"])
    whole = {f"text.{name}": tensor for name, tensor in base.items()} | {"vision.weight": torch.ones(1)}
    expected = {f"text.{name}": tensor for name, tensor in merged.items()} | {"vision.weight": torch.ones(1)}
    assert_same(read_adapter(tmp_path, whole), expected)


def test_no_prefix_wins_over_one_that_matches_as_much(tmp_path):
    base, merged = adapt(llama(), tmp_path, target_modules=["q_proj"])
    averaged = {f"ema.{name}": tensor.clone() for name, tensor in base.items()}
    assert_same(read_adapter(tmp_path, base | averaged), {**merged, **averaged})


def test_several_prefixes(tmp_path):
    base, _ = adapt(llama(), tmp_path, target_modules=["q_proj"])
    towers = {f"{tower}.{name}": tensor for tower in ("student", "teacher") for name, tensor in base.items()}
    with pytest.raises(CheckpointError, match=r"several prefixes: student\., teacher\."):
        read_adapter(tmp_path, towers)


def test_another_architecture(tmp_path):
    adapt(llama(), tmp_path, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=r"has none of the tensors that are adapted: model\.layers\.0\.self_attn"):
        read_adapter(tmp_path, vit().state_dict())


def test_what_the_architecture_lacks_is_named(tmp_path):
    base, _ = adapt(llama(), tmp_path, target_modules=["q_proj", "v_proj"])
    del base["model.layers.1.self_attn.v_proj.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 of the adapted tensors: model\.layers\.1\.self_attn\.v_proj"):
        read_adapter(tmp_path, base)


# Tied weights


@pytest.mark.parametrize(("build", "embedding"), [(gpt2, "wte"), (lambda: llama(tied=True), "embed_tokens")])
@pytest.mark.parametrize("kind", ["target_modules", "modules_to_save"])
def test_one_of_two_tied_weights(build, embedding, kind, tmp_path):
    targets = {"target_modules": ["c_attn", "q_proj"]}
    base, _ = adapt(build(), tmp_path, **targets | {kind: [embedding, *targets.get(kind, [])]})
    with pytest.raises(CheckpointError, match=rf"adapter_model\.safetensors: the adapter unties .*{embedding}\.weight"):
        read_adapter(tmp_path, base)


@pytest.mark.parametrize("kind", ["target_modules", "modules_to_save"])
def test_tied_weights_trained_as_one(kind, tmp_path):
    """`merge_and_unload` adds the change of a tied weight twice: the oracle is the adapted model's forward pass."""
    model, tokens = llama(tied=True), torch.arange(5)[None]
    base = copied(model.state_dict())
    config = {"target_modules": ["q_proj"]}
    config[kind] = ["embed_tokens", *config.get(kind, [])]
    adapted = get_peft_model(model, LoraConfig(r=2, ensure_weight_tying=True, **config))
    randomise(adapted)
    adapted.save_pretrained(tmp_path)
    weights = read_adapter(tmp_path, base)
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    ours = llama(tied=True)
    ours.load_state_dict(dict(weights))
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(tokens).logits, adapted.eval()(tokens).logits, rtol=1e-4, atol=1e-4)


def test_tied_weights_saved_under_both_names(tmp_path):
    model = gpt2()
    base = copied(model.state_dict())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"]))
    with torch.no_grad():
        model.lm_head.weight += 1
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)
    assert_same(read_adapter(tmp_path, base), adapted.merge_and_unload().state_dict())


def test_the_embedding_of_an_untied_model(tmp_path):
    base, merged = adapt(gpt2(tied=False), tmp_path, target_modules=["wte"])
    assert_same(read_adapter(tmp_path, base), merged)


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_rounded(dtype, tmp_path):
    base, _ = adapt(llama().to(dtype), tmp_path, target_modules=["q_proj"])
    weights = read_adapter(tmp_path, base)
    name = "model.layers.0.self_attn.q_proj"
    stored = load_file(tmp_path / "adapter_model.safetensors")
    up, down = (stored[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "BA")
    assert weights[f"{name}.weight"].dtype == torch.float32
    exact = base[f"{name}.weight"].double() + 1.5 * up @ down
    torch.testing.assert_close(weights[f"{name}.weight"].double(), exact, rtol=1e-6, atol=1e-6)
    assert weights["model.norm.weight"].dtype == dtype


def test_double_precision_stays(tmp_path):
    base, merged = adapt(llama().double(), tmp_path, target_modules=["q_proj"], modules_to_save=["norm"])
    weights = read_adapter(tmp_path, base)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
    assert_same(weights, merged)


@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 5),
    rank=st.integers(1, 4),
    alpha=st.floats(-10, 10, allow_nan=False, width=32),
    stabilised=st.booleans(),
)
def test_any_shape_and_scaling(tmp_path_factory, outputs, inputs, rank, alpha, stabilised):
    directory = tmp_path_factory.mktemp("adapter")
    down, up, weight = torch.randn(rank, inputs), torch.randn(outputs, rank), torch.randn(outputs, inputs)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": stabilised}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    stored = {"base_model.model.fc.lora_A.weight": down, "base_model.model.fc.lora_B.weight": up}
    save_file(stored, directory / "adapter_model.safetensors")
    expected = weight + alpha / (math.sqrt(rank) if stabilised else rank) * up @ down
    torch.testing.assert_close(read_adapter(directory, {"fc.weight": weight})["fc.weight"], expected)


# What is refused


@pytest.fixture
def saved(tmp_path):
    base, _ = adapt(llama(), tmp_path, target_modules=["q_proj", "k_proj"])
    return tmp_path, base


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, r"adapter_config\.json: peft_type is 'IA3'; only 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is set, which is not supported"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication is set"),
        ({"target_parameters": ["a.weight"]}, "target_parameters is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"r": 0}, "r is 0; expected a positive integer"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": None}, "lora_alpha is None; expected a finite number"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"rank_pattern": {"q_proj": -1}}, "q_proj is -1"),
        ({"rank_pattern": [1]}, r"rank_pattern is \[1\]"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern: '\(' is no regular expression"),
        ({"rank_pattern": {"k_proj": 3}}, r"of model\.layers\.0\.self_attn\.k_proj\.weight do not fit rank 3"),
    ],
)
def test_configurations_that_are_refused(saved, fields, message):
    directory, base = saved
    edit_config(directory, **fields)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(directory, base)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_damaged_configurations(saved, text):
    directory, base = saved
    (directory / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: "):
        read_adapter(directory, base)


@pytest.mark.parametrize("use", ["use_dora", "lora_bias"])
def test_variants_that_peft_saves_are_refused(tmp_path, use):
    base, _ = adapt(opt(), tmp_path, target_modules=["q_proj"], **{use: True})
    with pytest.raises(CheckpointError, match=use):
        read_adapter(tmp_path, base)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != f"{FIRST}B.weight"},
            r"q_proj\.weight there is lora_A torch\.float32 \(2, 8\);",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != f"{FIRST}A.weight"},
            r"q_proj\.weight there is lora_B torch\.float32 \(8, 2\);",
        ),
        (lambda t: t | {f"{FIRST}A.weight": torch.zeros(2, 9)}, r"lora_A \(2, 9\) and lora_B \(8, 2\) of .* \(8, 8\)"),
        (lambda t: t | {f"{FIRST}B.weight": torch.zeros(8, 3)}, r"lora_A \(2, 8\) and lora_B \(8, 3\) of"),
        (
            lambda t: t | {f"{FIRST}A.weight": torch.zeros(0)},
            r"lora_A torch\.float32 \(0,\), lora_B .*; expected",
        ),
        (lambda t: t | {f"{FIRST}A.other.weight": torch.zeros(2, 8)}, "from a second adapter"),
        (
            lambda t: t | {f"{FIRST}A.weight": torch.zeros(2, 8).int()},
            r"lora_A torch\.int32 .*; expected floating-point matrices",
        ),
        (
            lambda t: t | {"base_model.model.model.norm.weight": torch.zeros(9)},
            r"model\.norm\.weight is \(9,\), not \(8,\)",
        ),
        (lambda t: t | {f"{FIRST}magnitude_vector": torch.zeros(8)}, r"lacks 1 .*lora_magnitude_vector"),
    ],
)
def test_weights_that_are_refused(saved, change, message):
    directory, base = saved
    edit_weights(directory, change)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_adapter(directory, base)
    assert str(refusal.value).startswith(str(directory / "adapter_model.safetensors"))


def test_a_convolution_is_not_turned_around(tmp_path):
    adapt(nn.Sequential(nn.Conv2d(2, 2, (3, 4))), tmp_path, target_modules=["0"])
    with pytest.raises(CheckpointError, match=r"do not fit rank 2 and the weight of the base, \(4, 3, 2, 2\)"):
        read_adapter(tmp_path, {"0.weight": torch.ones(4, 3, 2, 2)})


def test_missing_weights(saved):
    directory, base = saved
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the adapter has no weights; expected adapter_model\.safetensors or"):
        read_adapter(directory, base)


def test_resized_vocabulary(tmp_path):
    model = llama()
    base = copied(model.state_dict())
    model.resize_token_embeddings(14)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(CheckpointError, match=r"(lm_head|embed_tokens)\.weight is \(14, 8\), not \(12, 8\)"):
        read_adapter(tmp_path, base)


def test_a_square_weight_whose_orientation_cannot_be_told(tmp_path):
    base, _ = adapt(gpt2(tied=False), tmp_path, target_modules=["attn.c_proj", "c_fc", "lm_head"])
    with pytest.raises(CheckpointError, match=r"attn\.c_proj\.weight is square and the adapter has weights of both"):
        read_adapter(tmp_path, base)


@pytest.mark.parametrize("path", ["/nowhere", "pkg://fusion_eval.zoo/base.safetensors"])
def test_what_is_no_adapter(path, tmp_path):
    assert not is_adapter(path)
    assert not is_adapter(tmp_path)
    gpt2().save_pretrained(tmp_path)
    assert not is_adapter(tmp_path)
