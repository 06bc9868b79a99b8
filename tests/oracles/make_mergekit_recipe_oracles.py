"""Writes mergekit_recipes.safetensors: what mergekit makes of recipes of all kinds, run as a user runs them.

    python -m venv /tmp/mk && /tmp/mk/bin/pip install torch==2.13.0 && /tmp/mk/bin/pip install mergekit==0.1.5
    /tmp/mk/bin/python tests/oracles/make_mergekit_recipe_oracles.py

Keys are `<architecture>/<model>`, where a model is one of MODELS or a recipe: all tensors of a model in one, flat. The
metadata holds the versions and, as JSON, the recipes and the names and shapes of the tensors.
"""

from __future__ import annotations

import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

FIXTURE = Path(__file__).resolve().with_name("mergekit_recipes.safetensors")
MODELS = ("base", "one", "two", "three")
LAYERS = 3
OPTIONS = MergeOptions(copy_tokenizer=False, write_model_card=False, random_seed=0, quiet=True)


def architectures() -> dict[str, torch.nn.Module]:
    return {
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=False,
            )
        ),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=LAYERS, n_head=2, bos_token_id=0, eos_token_id=0)
        ),
        "bert": BertForSequenceClassification(
            BertConfig(
                vocab_size=8,
                hidden_size=4,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                intermediate_size=8,
                max_position_embeddings=4,
            )
        ),
        "t5": T5ForConditionalGeneration(
            T5Config(
                vocab_size=8,
                d_model=4,
                d_kv=2,
                d_ff=8,
                num_layers=LAYERS,
                num_decoder_layers=2,
                num_heads=2,
                relative_attention_num_buckets=4,
                feed_forward_proj="gated-gelu",
            )
        ),
    }


GRADIENT = """
models:
  - {model: one, parameters: {weight: [1, 0.6, 0.1, 0.3]}}
  - model: two
    parameters:
      weight:
        - {filter: attn, value: [0, 0.5]}
        - {filter: embed, value: 0.9}
        - {filter: bias, value: [0.2, 0.7, 0.4]}
        - {value: 0.3}
merge_method: linear
parameters: {normalize: false}
"""
"""Every tensor shows, by the weights of its two models, at which depth mergekit places it."""

RECIPES = {
    "llama": {
        "gradient": GRADIENT,
        "linear": """
models:
  - {model: one, parameters: {weight: 2}}
  - {model: two, parameters: {weight: 1}}
  - {model: three, parameters: {weight: -0.5}}
merge_method: linear
dtype: float32
""",
        "linear_with_base": """
base_model: base
models:
  - {model: one, parameters: {weight: 0.7}}
  - {model: three}
parameters: {weight: [0.1, 0.5]}
merge_method: linear
tokenizer_source: null
out_dtype: float32
""",
        "slerp_slices": """
slices:
  - sources:
      - {model: one, layer_range: [0, 3]}
      - {model: three, layer_range: [0, 3]}
merge_method: slerp
base_model: one
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - {value: 0.5}
""",
        "slerp_models": """
models: [{model: one}, {model: two}]
merge_method: slerp
base_model: two
parameters:
  t: [{filter: proj, value: 0.2}, {filter: "*", value: 1e-1}]
""",
        "nuslerp": """
base_model: base
models:
  - {model: one, parameters: {weight: [0.2, 0.9]}}
  - {model: two, parameters: {weight: 0.4}}
merge_method: nuslerp
""",
        "nuslerp_from_zero": """
models:
  - {model: one, parameters: {weight: 0.2}}
  - {model: two, parameters: {weight: 0.4}}
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
merge_method: nuslerp
""",
        "task_arithmetic": """
base_model: base
models:
  - {model: one, parameters: {weight: [0.1, 0.9]}}
  - model: two
    parameters: {weight: [{filter: mlp, value: -0.5}, {value: 0}]}
  - {model: three, parameters: {weight: 0.4}}
parameters: {lambda: [0.5, 1.5], int8_mask: true}
merge_method: task_arithmetic
""",
        "task_arithmetic_normalized": """
base_model: one
models:
  - {model: one}
  - {model: two, parameters: {weight: 0.6}}
  - {model: three, parameters: {weight: 1.4}}
parameters: {normalize: true, lambda: 0.7}
merge_method: task_arithmetic
""",
        "ties": """
models:
  - {model: one, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
  - {model: two, parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}}
  - model: three
    parameters:
      density: 0.33
      weight: [{filter: mlp, value: 0.5}, {value: 0}]
merge_method: ties
base_model: base
parameters: {normalize: true, int8_mask: true}
dtype: float32
""",
        "ties_sum": """
base_model: base
models:
  - {model: one, parameters: {weight: 0.5}}
  - {model: two, parameters: {weight: -0.8}}
  - {model: three, parameters: {weight: 1.3}}
parameters: {density: 0.4, normalize: false, lambda: 0.9}
merge_method: ties
""",
        "ties_slices": """
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: one, layer_range: [0, 2], parameters: {density: [0.9, 0.4]}}
      - {model: two, layer_range: [0, 2]}
    parameters: {density: 0.6, weight: 0.5}
  - sources:
      - {model: three, layer_range: [2, 3], parameters: {weight: [0.2, 0.7]}}
      - {model: base, layer_range: [2, 3]}
      - {model: one, layer_range: [2, 3]}
    parameters: {weight: 0.3}
parameters: {density: 0.3, lambda: [0.8, 1.2]}
merge_method: ties
""",
        "dare_ties_1": """
base_model: base
models:
  - {model: one, parameters: {weight: 0.5}}
  - {model: two, parameters: {weight: 0.8, density: 1.0}}
  - {model: three, parameters: {weight: 0.3}}
parameters: {density: 1, lambda: 0.9}
merge_method: dare_ties
""",
        "dare_linear": """
base_model: base
models: [{model: one, parameters: {weight: 0.5, density: 0.5}}]
merge_method: dare_linear
""",
        "dare_linear_unscaled": """
base_model: base
models: [{model: one, parameters: {weight: 1, density: 0.5}}]
parameters: {rescale: false}
merge_method: dare_linear
""",
        "della_1": """
base_model: base
models:
  - {model: one, parameters: {weight: 0.5}}
  - {model: two, parameters: {weight: 0.8}}
  - {model: three, parameters: {weight: 0.3}}
parameters: {density: 1, epsilon: 0.1}
merge_method: della
""",
        "della_linear": """
base_model: base
models: [{model: two, parameters: {weight: 0.5}}]
parameters: {density: 0.6, epsilon: 0.3}
merge_method: della_linear
""",
        "breadcrumbs": """
base_model: base
models:
  - {model: one, parameters: {weight: 0.5, density: 0.5, gamma: 0.2}}
  - {model: two, parameters: {weight: 0.8, density: [0.7, 0.3]}}
  - {model: three, parameters: {weight: 0.3}}
parameters: {density: 1, gamma: 0.1, rescale: true}
merge_method: breadcrumbs
""",
        "breadcrumbs_ties": """
base_model: base
models: [{model: one}, {model: two}, {model: three, parameters: {weight: 0.4}}]
parameters: {density: 0.6, gamma: 0.15, weight: 0.7}
merge_method: breadcrumbs_ties
""",
        "model_stock": "{base_model: base, models: [model: one, model: two, model: three], merge_method: model_stock}",
        "sce": """
base_model: base
models: [{model: one}, {model: two}, {model: three}]
parameters: {select_topk: [0.9, 0.3]}
merge_method: sce
""",
        "karcher": """
models: [{model: one}, {model: two}, {model: three}]
parameters: {max_iter: 100, tol: 1e-7}
merge_method: karcher
""",
        "karcher_with_base": """
base_model: base
models: [{model: one}, {model: two}]
parameters: {max_iter: 100, tol: 1e-7}
merge_method: karcher
""",
        "multislerp": """
base_model: base
models:
  - {model: one, parameters: {weight: [0.5, 0.1]}}
  - {model: two, parameters: {weight: 0.8}}
  - {model: three, parameters: {weight: 0.3}}
merge_method: multislerp
""",
        "multislerp_from_zero": """
models:
  - {model: one, parameters: {weight: 1}}
  - {model: two, parameters: {weight: 3}}
merge_method: multislerp
""",
        "passthrough": """
models: [model: two]
parameters: {scale: [{filter: o_proj, value: 0}, {filter: mlp, value: [0.5, 1.5]}]}
merge_method: passthrough
""",
        "passthrough_slices": """
slices:
  - sources: [{model: one, layer_range: [0, 1]}]
  - sources: [{model: two, layer_range: [1, 3], parameters: {scale: [1, 0.5]}}]
merge_method: passthrough
""",
    },
    "gpt2": {"gradient": GRADIENT},
    "bert": {"gradient": GRADIENT},
    "t5": {"gradient": GRADIENT},
}


def models(architecture: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """The base, and experts whose task vectors are heavy-tailed, of layers of different size, and often in conflict."""
    generator = torch.Generator().manual_seed(3)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    parameters = dict(architecture.named_parameters())
    base = {name: 0.1 * noise(tensor) for name, tensor in parameters.items()}
    layer_size = {name: 10 ** (-2 - torch.rand((), generator=generator)) for name in base}
    made = {"base": base}
    for expert in MODELS[1:]:
        made[expert] = {name: tensor + layer_size[name] * noise(tensor) ** 3 for name, tensor in base.items()}
    return made


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def main() -> None:
    stored, shapes = {}, {}
    for kind, architecture in architectures().items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # the recipes name the models by paths
            LoaderCache().loaders.clear()  # it takes equal names for equal models
            inputs = models(architecture)
            shapes[kind] = {name: list(tensor.shape) for name, tensor in inputs["base"].items()}
            for model, tensors in inputs.items():
                architecture.load_state_dict(tensors, strict=False)
                architecture.save_pretrained(model)
                stored[f"{kind}/{model}"] = flat(tensors)
            for name, text in RECIPES[kind].items():
                config = MergeConfiguration.model_validate(yaml.safe_load(text))
                run_merge(config, f"merged/{name}", OPTIONS)
                merged = {}
                for shard in Path("merged", name).glob("*.safetensors"):
                    merged |= load_file(shard)
                assert merged.keys() == shapes[kind].keys(), merged.keys() ^ shapes[kind].keys()
                stored[f"{kind}/{name}"] = flat({tensor: merged[tensor] for tensor in shapes[kind]})
            os.chdir(FIXTURE.parent)
    versions = {package: version(package) for package in ("mergekit", "torch", "transformers")}
    save_file(stored, FIXTURE, versions | {"recipes": json.dumps(RECIPES), "shapes": json.dumps(shapes)})


if __name__ == "__main__":
    main()
