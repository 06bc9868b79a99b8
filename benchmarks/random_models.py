"""Checkpoints with random weights: a base, and experts that differ from it a little everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

__all__ = ["make_models"]

_FREE_FACTOR = 1.5  # the checkpoints, and room for the merges that are written


def make_models(folder: Path, experts: int, layers: int) -> tuple[Path, dict[str, Path]]:
    """Write Hugging Face directories of the vision tower of CLIP ViT-B/32, float32: about 350 MB each with 12 layers.

    Args:
        folder: Where they go.
        experts: How many, from 1.
        layers: Transformer blocks, 12 in the original.

    Returns:
        The base, and the experts by name.

    Raises:
        SystemExit: the disk has too little space.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(weight.nbytes for weight in CLIPVisionModel(_config(layers)).parameters())
    needed, free = _FREE_FACTOR * size * (1 + experts), shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{folder}: the models need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    base = folder / "base"
    CLIPVisionModel(_config(layers)).save_pretrained(base)
    paths = {f"expert{number}": folder / f"expert{number}" for number in range(experts)}
    for path in paths.values():
        _fine_tune(base, path)
    return base, paths


def _config(layers: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(num_hidden_layers=layers)


def _fine_tune(base: Path, expert: Path) -> None:
    """Move every weight by normal noise of a fiftieth of its tensor's root mean square."""
    expert.mkdir()
    shutil.copy(base / "config.json", expert)
    weights = load_file(base / "model.safetensors")
    moved = {
        name: weight + torch.randn_like(weight) * 0.02 * weight.square().mean().sqrt().clamp(min=1e-3)
        for name, weight in weights.items()
    }
    save_file(moved, expert / "model.safetensors", {"format": "pt"})
