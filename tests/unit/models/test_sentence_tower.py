"""Zero-shot heads of label descriptions, against transformers one description at a time."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from fusion_eval.errors import CheckpointError, ConfigError, DataError
from fusion_eval.models import Pooled, SentenceTower, ZeroShotHead

CLASSES = ["red", "dark green", "blue"]
TEMPLATES = ["{}", "the colour is {}"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSION_EVAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path):
    """A small BERT and its tokenizer, one token a word."""
    words = ["[PAD]", "[UNK]", "red", "green", "dark", "blue", "the", "colour", "is"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "base"
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **sizes)).save_pretrained(path)
    return path


@torch.no_grad()
def embeddings(base, pooling):
    """Shape `(classes, d)`: each prompt on its own, normalised, the mean over templates normalised again."""
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(base), BertModel.from_pretrained(base).eval()
    pool = {"mean": lambda rows: rows.mean(dim=0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}[pooling]
    rows = []
    for name in CLASSES:
        prompts = [tokenizer(template.format(name), return_tensors="pt") for template in TEMPLATES]
        vectors = torch.stack([pool(model(**prompt).last_hidden_state[0]) for prompt in prompts])
        rows.append(functional.normalize(functional.normalize(vectors, dim=1).mean(dim=0), dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_class_is_the_mean_of_its_descriptions(base, pooling):
    head = ZeroShotHead(SentenceTower(str(base), pooling, scale=5.0), CLASSES, TEMPLATES).load()
    torch.testing.assert_close(head.class_embeddings, embeddings(base, pooling), atol=1e-5, rtol=0)
    features = torch.randn(4, 32)
    expected = 5 * functional.normalize(features, dim=1) @ embeddings(base, pooling).T
    torch.testing.assert_close(head(features), expected, atol=1e-4, rtol=0)


def test_below_a_pooling_it_classifies_texts(base):
    head = Pooled(head=ZeroShotHead(SentenceTower(str(base)), CLASSES, ["{}"])).load()
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(base), BertModel.from_pretrained(base).eval()
    inputs = tokenizer(CLASSES, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = head(model(**inputs), inputs)
    torch.testing.assert_close(logits.diag(), torch.full((3,), 20.0), atol=1e-3, rtol=0)  # a class is its own name


def test_it_is_made_once_and_anew_for_another_base(base, tmp_path):
    tower = SentenceTower(str(base))
    first = ZeroShotHead(tower, CLASSES, TEMPLATES).load()
    ZeroShotHead(SentenceTower(str(base)), CLASSES, TEMPLATES).load()
    stored = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(stored) == 1
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    other = ZeroShotHead(tower, CLASSES, TEMPLATES).load()
    assert not torch.allclose(first.class_embeddings, other.class_embeddings)


def test_the_digest_knows_all_that_decides_and_no_place(base, tmp_path):
    base.rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    digests = {SentenceTower(moved, *how).digest() for how in [("mean",), ("cls",), ("mean", 10.0)]}
    assert len(digests) == 3
    (tmp_path / "moved").rename(base)
    assert SentenceTower(str(base)).digest() in digests


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"pooling='max'; Known: cls, last, mean"):
        SentenceTower("base", "max")
    with pytest.raises(ConfigError, match=r"scale=0; it should be positive"):
        SentenceTower("base", scale=0)


def test_what_is_missing_is_named(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere"):
        SentenceTower(str(tmp_path / "nowhere")).load()
    (base / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer"):
        SentenceTower(str(base)).load()
