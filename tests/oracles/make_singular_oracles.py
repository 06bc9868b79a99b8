"""Writes singular.safetensors: what FusionBench's methods for matrices make of three tiny vision models.

It has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    /tmp/fb/bin/python tests/oracles/make_singular_oracles.py

Keys are `<model>/<tensor>`; a model is "base", one of EXPERTS, or the name of a recipe. The metadata holds the versions
and, as JSON, the recipes.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method import ISO_C_Merge, ISO_CTS_Merge, TaskSingularVectorMerging, WUDIMerging
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

FIXTURE = Path(__file__).with_name("singular.safetensors")
EXPERTS = ("one", "two", "three")
CONFIG = CLIPVisionConfig(
    hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, image_size=12, patch_size=4
)
RECIPES = {
    "iso_c_1": (ISO_C_Merge, {"scaling_factor": 1.0}),
    "iso_c_1.5": (ISO_C_Merge, {"scaling_factor": 1.5}),
    "iso_cts_0.8": (ISO_CTS_Merge, {"scaling_factor": 1.0, "common_space_fraction": 0.8}),
    "iso_cts_0.5": (ISO_CTS_Merge, {"scaling_factor": 0.7, "common_space_fraction": 0.5}),
    "iso_cts_0": (ISO_CTS_Merge, {"scaling_factor": 1.0, "common_space_fraction": 0.0}),
    "tsv_1": (TaskSingularVectorMerging, {"alpha": 1.0}),
    "tsv_0.5": (TaskSingularVectorMerging, {"alpha": 0.5}),
    "wudi_30": (WUDIMerging, {"iter_num": 30}),
    "wudi_300": (WUDIMerging, {"iter_num": 300}),
}


def inputs() -> dict[str, dict[str, Tensor]]:
    """The base and the experts, in float64: their singular values, all different, are then exact to many digits."""
    generator = torch.Generator().manual_seed(3)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    template = {
        name: tensor for name, tensor in CLIPVisionModel(CONFIG).state_dict().items() if tensor.is_floating_point()
    }
    base = {name: 0.1 * noise(tensor) for name, tensor in template.items()}
    return {"base": base} | {
        expert: {name: tensor + 0.02 * noise(tensor) ** 3 for name, tensor in base.items()} for expert in EXPERTS
    }


def clip(state_dict: dict[str, Tensor]) -> CLIPVisionModel:
    model = CLIPVisionModel(CONFIG).double()
    model.load_state_dict(state_dict)
    return model


def main() -> None:
    models = inputs()
    merged = {}
    for recipe, (method, options) in RECIPES.items():
        pool = BaseModelPool(
            {name if name != "base" else "_pretrained_": clip(model) for name, model in models.items()}
        )
        merged[recipe] = method(**options).run(pool).state_dict()
    models |= merged
    tensors = {
        f"{model}/{name}": t.contiguous() for model, state_dict in models.items() for name, t in state_dict.items()
    }
    options = {recipe: options for recipe, (_, options) in RECIPES.items()}
    metadata = {"fusion-bench": version("fusion-bench"), "torch": torch.__version__, "recipes": json.dumps(options)}
    save_file(tensors, FIXTURE, metadata)


if __name__ == "__main__":
    main()
