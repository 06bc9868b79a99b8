"""A sentence encoder of random weights, as `save_pretrained` writes it, and sentences for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture(scope="session")
def encoder_path(tmp_path_factory):
    """The directory of a small BERT and its tokenizer, one token a word."""
    path = tmp_path_factory.mktemp("encoder")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(specials + WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token"], specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **names).save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=64, max_position_embeddings=32, initializer_range=0.5, **sizes)
        BertModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def sentences():
    """`sentences(count, seed)`: random ones of 1 to 12 words."""

    def draw(count, seed):
        generator = np.random.default_rng(seed)
        return [" ".join(generator.choice(WORDS, generator.integers(1, 13))) for _ in range(count)]

    return draw


@pytest.fixture(scope="session")
def embed_alone(encoder_path):
    """`embed_alone(texts)`: mean of the tokens, each text on its own, by transformers and plain torch: `(n, d)`."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(encoder_path)
    model = BertModel.from_pretrained(encoder_path).eval()

    @torch.no_grad()
    def embed(texts):
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
        return torch.stack(rows).double().numpy()

    return embed
