"""Writes merging.safetensors: what FusionBench and mergekit make of four tiny Llama models.

Each has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    python -m venv /tmp/mk && /tmp/mk/bin/pip install torch==2.13.0 && /tmp/mk/bin/pip install mergekit==0.1.5
    /tmp/fb/bin/python tests/oracles/make_merging_oracles.py fusion-bench
    /tmp/mk/bin/python tests/oracles/make_merging_oracles.py mergekit

A run adds to the file what its package makes and leaves the rest. Keys are `<model>/<tensor>`; a model is "base", one
of EXPERTS, or "<package>.<recipe>". The metadata holds the versions and, as JSON, the recipes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

FIXTURE = Path(__file__).with_name("merging.safetensors")
EXPERTS = ("one", "two", "three")
CONFIG = LlamaConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
FUSION_BENCH = {
    "average": {},
    "task_arithmetic_0.3": {"scaling_factor": 0.3},
    "task_arithmetic_-1": {"scaling_factor": -1.0},
    "ties_0.2": {"scaling_factor": 1.0, "threshold": 0.2},
    "ties_0.7": {"scaling_factor": 0.4, "threshold": 0.7},
}
MERGEKIT = {
    "linear": {},
    "task_arithmetic_0.3": {"lambda": 0.3},
    "ties_0.2": {"lambda": 1.0, "density": 0.2},
    "ties_0.7": {"lambda": 0.4, "density": 0.7},
    "ties_1": {"lambda": 1.0, "density": 1.0},
}


def inputs() -> dict[str, dict[str, Tensor]]:
    """The base, and experts whose task vectors are heavy-tailed, of layers of different size, and often in conflict."""
    generator = torch.Generator().manual_seed(2)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    base = {name: 0.1 * noise(tensor) for name, tensor in LlamaForCausalLM(CONFIG).state_dict().items()}
    layer_size = {name: 10 ** (-2 - torch.rand((), generator=generator)) for name in base}
    models = {"base": base}
    for expert in EXPERTS:
        models[expert] = {name: tensor + layer_size[name] * noise(tensor) ** 3 for name, tensor in base.items()}
    return models


def llama(state_dict: dict[str, Tensor]) -> LlamaForCausalLM:
    model = LlamaForCausalLM(CONFIG)
    model.load_state_dict(state_dict)
    return model


def fusion_bench(models: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    from fusion_bench.method import SimpleAverageAlgorithm, TaskArithmeticAlgorithm, TiesMergingAlgorithm

    merged = {}
    for recipe, options in FUSION_BENCH.items():
        if recipe == "average":
            method = SimpleAverageAlgorithm()
        elif recipe.startswith("task_arithmetic"):
            method = TaskArithmeticAlgorithm(**options)
        else:
            method = TiesMergingAlgorithm(**options, remove_keys=[], merge_func="mean")
        pool = {name: llama(state_dict) for name, state_dict in models.items()}
        pool["_pretrained_"] = pool.pop("base")
        if recipe == "average":
            del pool["_pretrained_"]
        merged[recipe] = method.run(pool).state_dict()
    return merged


def mergekit(models: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    merged = {}
    with tempfile.TemporaryDirectory() as folder:
        at = {name: str(Path(folder, name)) for name in models}
        for name, state_dict in models.items():
            llama(state_dict).save_pretrained(at[name])
        for recipe, options in MERGEKIT.items():
            config = {
                "merge_method": recipe.rpartition("_")[0] or recipe,
                "models": [{"model": at[name], "parameters": {"weight": 1.0}} for name in EXPERTS],
                "parameters": options,
                "dtype": "float32",
            }
            if recipe != "linear":
                config["base_model"] = at["base"]
            out = Path(folder, "merged", recipe)
            run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(copy_tokenizer=False))
            merged[recipe] = {name: t for shard in out.glob("*.safetensors") for name, t in load_file(shard).items()}
    return merged


def main(package: str) -> None:
    models = inputs()
    merge, recipes = {"fusion-bench": (fusion_bench, FUSION_BENCH), "mergekit": (mergekit, MERGEKIT)}[package]
    tensors, metadata = {}, {}
    if FIXTURE.exists():
        with safe_open(FIXTURE, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(f"{package}.")}  # noqa: SIM118
    models |= {f"{package}.{recipe}": state_dict for recipe, state_dict in merge(models).items()}
    for model, state_dict in models.items():
        for name, tensor in state_dict.items():
            key = f"{model}/{name}"
            assert torch.equal(tensors.setdefault(key, tensor.contiguous()), tensor), f"{key} is not as it was"
    metadata |= {package: version(package), f"{package} recipes": json.dumps(recipes), "torch": torch.__version__}
    save_file(tensors, FIXTURE, metadata)


if __name__ == "__main__":
    main(sys.argv[1])
