"""A CLIP with random weights, two experts of it, and photographs, in the forms that the hub has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, CLIPVisionModel

from fusion_eval.data import DataSource, ImageTransform, Samples
from fusion_eval.data.digest import digest_content
from fusion_eval.data.transform import TransformedSamples

__all__ = ["ARCHITECTURES", "Photographs", "make_clip", "make_images"]

ARCHITECTURES: dict[str, dict[str, dict[str, int]]] = {
    "tiny": {
        "vision": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
        "text": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    },
    "ViT-B/32": {"vision": {"patch_size": 32}, "text": {}},
    "ViT-L/14": {
        "vision": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "patch_size": 14,
        },
        "text": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    },
}
"""What differs from the defaults of transformers, which are those of ViT-B/32 but for the patches."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_clip(folder: Path, texts: list[str], architecture: str) -> tuple[Path, list[Path]]:
    """Write a whole CLIP, with tokenizer and image processor, and two vision encoders.

    Args:
        folder: Where they go.
        texts: What the tokenizer learns its byte pairs from.
        architecture: One of `ARCHITECTURES`.

    Returns:
        The CLIP, and the experts.
    """
    torch.manual_seed(0)
    clip = folder / "clip"
    tokenizer = _tokenizer(folder, texts)
    tokenizer.save_pretrained(clip)
    CLIPImageProcessor().save_pretrained(clip)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = ARCHITECTURES[architecture]
    text = {"vocab_size": len(tokenizer), **ends, **sizes["text"]}
    config = CLIPConfig(text_config=text, vision_config=sizes["vision"])
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


def make_images(folder: Path, count: int, distinct: int) -> Path:
    """Write a split of `count` JPEG photographs of 500 x 375 pixels, ten classes, as `save_to_disk` leaves it.

    Args:
        folder: Where it goes; the photographs go to its folder `jpeg`.
        count: Rows.
        distinct: Photographs; they are repeated.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (distinct, 12, 16, 3), dtype=np.uint8)
    files = []
    (folder / "jpeg").mkdir(exist_ok=True)
    for number, pixels in enumerate(coarse):
        files.append(folder / "jpeg" / f"{number}.jpg")
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    rows = {
        "image": [{"bytes": files[i % distinct].read_bytes(), "path": None} for i in range(count)],
        "label": [i % 10 for i in range(count)],
    }
    path = folder / f"images{count}"
    datasets.Dataset.from_dict(rows, features=features, split="test").save_to_disk(path)
    return path


@dataclass(frozen=True)
class Photographs(DataSource):
    """So many images of `make_images`, without a data set that holds each of them.

    Args:
        folder: With the photographs.
        count: Samples.
        seed: Another number makes other samples of it: of another class, in another order.
    """

    folder: str
    count: int
    seed: int

    def load(self) -> Samples:
        return TransformedSamples(_Repeated(self), ImageTransform())


class _Repeated(Samples):
    def __init__(self, source: Photographs) -> None:
        self._source = source
        self._images = [Image.open(file).copy() for file in sorted(Path(source.folder).iterdir())]
        self.class_names = list(map(str, range(10)))

    def __len__(self) -> int:
        return self._source.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self._images[(index + self._source.seed) % len(self._images)], (index + self._source.seed) % 10

    def fingerprint(self) -> str:
        return digest_content([repr(self._source), self._images])
