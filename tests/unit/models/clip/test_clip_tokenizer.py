"""The prompts under CLIP's own vocabulary, which the package open_clip brings along."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from fusion_eval.models.clip.prompts import Prompts, known_classes

PACKAGE = find_spec("open_clip")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="open_clip_torch is not installed")
MERGES = 49152 - 256 - 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """That of transformers, with OpenAI's 49,408 tokens: bytes, bytes that end a word, merges, two marks."""
    [package] = PACKAGE.submodule_search_locations
    lines = gzip.decompress((Path(package) / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = lines[1 : MERGES + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def test_it_is_the_tokenizer_of_clip(tokenizer):
    """An example of the paper's repository: "a diagram"."""
    assert tokenizer("a diagram").input_ids == [49406, 320, 22697, 49407]


@pytest.mark.parametrize("name", [name for name in known_classes() if "imagenet" not in name])
def test_no_prompt_is_longer_than_the_context(tokenizer, name):
    assert max(map(len, tokenizer(Prompts.read(name).texts).input_ids)) <= 77


@pytest.mark.parametrize("name", ["imagenet", "tiny_imagenet"])
def test_no_prompt_of_imagenet_is_longer_than_the_context(tokenizer, name):
    prompts = Prompts.read(name)
    longest = sorted(prompts.templates, key=len)[-3:]
    assert max(map(len, tokenizer(Prompts(prompts.classes, longest).texts).input_ids)) <= 77
