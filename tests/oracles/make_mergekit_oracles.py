"""Writes mergekit.safetensors: what mergekit makes of the models of merging.safetensors, method by method.

    python -m venv /tmp/mk && /tmp/mk/bin/pip install torch==2.13.0 && /tmp/mk/bin/pip install mergekit==0.1.5
    /tmp/mk/bin/python tests/oracles/make_mergekit_oracles.py

Keys are `<recipe>/<tensor>`. The metadata holds the versions and, as JSON, the recipes.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from make_merging_oracles import inputs, llama
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

FIXTURE = Path(__file__).with_name("mergekit.safetensors")
ALL = {"one": {}, "two": {}, "three": {}}
EQUAL = {name: {"weight": 1.0} for name in ALL}
PAIR = {"one": {"weight": 0.7}, "three": {"weight": 0.3}}
RECIPES = {
    "wise_ft": ("linear", None, {"base": {"weight": 0.7}, "two": {"weight": 0.3}}, {}),
    "breadcrumbs": ("breadcrumbs", "base", EQUAL, {"density": 0.4, "gamma": 0.1, "lambda": 0.3, "normalize": False}),
    "breadcrumbs_ties": ("breadcrumbs_ties", "base", EQUAL, {"density": 0.4, "gamma": 0.1, "normalize": True}),
    "slerp": ("slerp", "one", {"one": {}, "three": {}}, {"t": 0.3}),
    "nuslerp": ("nuslerp", "base", PAIR, {}),
    "nuslerp_rows": ("nuslerp", "base", PAIR, {"nuslerp_flatten": False}),
    "nuslerp_columns": ("nuslerp", "base", PAIR, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    "multislerp": ("multislerp", "base", EQUAL, {}),
    "multislerp_from_zero": ("multislerp", None, EQUAL, {}),
    "karcher": ("karcher", None, ALL, {"max_iter": 100, "tol": 1e-7}),
    "model_stock": ("model_stock", "base", ALL, {}),
    "sce_0.5": ("sce", "base", ALL, {"select_topk": 0.5}),
    "sce_1": ("sce", "base", ALL, {"select_topk": 1.0}),
}
"""Recipe to mergekit's method, base model, models with their parameters, and parameters of the method."""


def main() -> None:
    tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, state_dict in inputs().items():
            llama(state_dict).save_pretrained(Path(folder, name))
        for recipe, (method, base, models, options) in RECIPES.items():
            listed = [
                {"model": str(Path(folder, name)), "parameters": parameters} for name, parameters in models.items()
            ]
            config = {"merge_method": method, "models": listed, "parameters": options, "dtype": "float32"}
            if base:
                config["base_model"] = str(Path(folder, base))
            out = Path(folder, "merged", recipe)
            run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(copy_tokenizer=False))
            for shard in out.glob("*.safetensors"):
                tensors |= {f"{recipe}/{name}": tensor for name, tensor in load_file(shard).items()}
    recipes = {name: {"method": method, "options": options} for name, (method, _, _, options) in RECIPES.items()}
    save_file(
        tensors,
        FIXTURE,
        {"mergekit": version("mergekit"), "torch": torch.__version__, "recipes": json.dumps(recipes)},
    )


if __name__ == "__main__":
    main()
