"""Writes tall_masks.safetensors: FusionBench's TALL masks of the models in merging.safetensors.

It has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    /tmp/fb/bin/python tests/oracles/make_tall_mask_oracles.py

Keys are `<lambda>/<expert>`: one mask, uint8, over the flat model, its tensors in the order of their names. Masks come
from the function that is the authors' own. FusionBench's TallMaskTaskArithmeticAlgorithm is no oracle: 0.2.33 hands its
mask function task vectors where that expects weights, and so compares `|base - task vector|`.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from fusion_bench.method.tall_mask.utils import generate_task_masks
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = Path(__file__).parent
EXPERTS = ("one", "two", "three")
LAMBDAS = (0.2, 0.4, 0.6, 1.5)


def flat(tensors: dict[str, Tensor], model: str) -> Tensor:
    names = sorted(name for name in tensors if name.startswith(f"{model}/"))
    return torch.cat([tensors[name].flatten() for name in names]).double()


def main() -> None:
    tensors = load_file(FOLDER / "merging.safetensors")
    base, experts = flat(tensors, "base"), torch.stack([flat(tensors, expert) for expert in EXPERTS])
    masks = {
        f"{weight}/{expert}": mask.to(torch.uint8)
        for weight in LAMBDAS
        for expert, mask in zip(
            EXPERTS, generate_task_masks(experts - base, experts, base, tall_mask_lambda=weight), strict=True
        )
    }
    metadata = {"fusion-bench": version("fusion-bench"), "torch": torch.__version__}
    save_file({name: mask.clone() for name, mask in masks.items()}, FOLDER / "tall_masks.safetensors", metadata)


if __name__ == "__main__":
    main()
