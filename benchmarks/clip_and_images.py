"""A CLIP ViT-B/32 with random weights, two experts of it, and photographs, in the forms that the hub has."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, CLIPVisionModel

__all__ = ["make_clip", "make_images"]

_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_clip(folder: Path, texts: list[str]) -> tuple[Path, list[Path]]:
    """Write a whole CLIP of the size of ViT-B/32, with tokenizer and image processor, and two vision encoders.

    Args:
        folder: Where they go.
        texts: What the tokenizer learns its byte pairs from.

    Returns:
        The CLIP, and the experts.
    """
    torch.manual_seed(0)
    clip = folder / "clip"
    tokenizer = _tokenizer(folder, texts)
    tokenizer.save_pretrained(clip)
    CLIPImageProcessor().save_pretrained(clip)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config={"vocab_size": len(tokenizer), **ends}, vision_config={"patch_size": 32})
    model = CLIPModel(config)
    model.save_pretrained(clip)
    experts = [folder / "first", folder / "second"]
    for path in experts:
        tower = CLIPVisionModel.from_pretrained(clip)
        with torch.no_grad():
            for weight in tower.parameters():
                weight.add_(0.02 * weight.std().nan_to_num() * torch.randn_like(weight))
        tower.save_pretrained(path)
    return clip, experts


def _tokenizer(folder: Path, texts: list[str]) -> CLIPTokenizerFast:
    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    pairs.normalizer = normalizers.Lowercase()
    pairs.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    learnt = json.loads(pairs.to_str())["model"]
    tokens = [*learnt["vocab"], *(f"{letter}</w>" for letter in alphabet if f"{letter}</w>" not in learnt["vocab"])]
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate([*tokens, _START, _END])}))
    merges = [" ".join(pair) for pair in learnt["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def make_images(folder: Path, count: int) -> Path:
    """Write a split of `count` JPEG photographs of 500 x 375 pixels, ten classes, as `save_to_disk` leaves it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    files = []
    (folder / "jpeg").mkdir()
    for number, pixels in enumerate(coarse):
        files.append(str(folder / "jpeg" / f"{number}.jpg"))
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    rows = {
        "image": [{"bytes": Path(file).read_bytes(), "path": None} for file in files],
        "label": [i % 10 for i in range(count)],
    }
    datasets.Dataset.from_dict(rows, features=features, split="test").save_to_disk(folder / "images")
    return folder / "images"
