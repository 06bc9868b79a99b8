"""A tokenizer without a pad token, tiny models, and data, all made here."""

from __future__ import annotations

import json
import random

import pytest
import torch

WORDS = "the a cat dog house river walks sees finds under over green red big naïve".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("causal")
    generator = random.Random(0)

    def words(most):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(1, most)))

    rows = [
        {
            "question": words(8) if row % 4 else " ".join(WORDS * 3),
            "choices": [words(4) for _ in range(generator.randint(2, 4))],
            "answer": generator.randrange(2),
            "text": words(25),
            "says": words(2),
        }
        for row in range(6)
    ]
    (place / "rows").mkdir()
    (place / "rows" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=40
    )
    fast.save_pretrained(place / "tokenizer")
    return place


@pytest.fixture(scope="session")
def causal_model():
    """A tiny causal language model of any architecture, far enough from uniform that rounding picks no token."""
    transformers = pytest.importorskip("transformers")
    attention = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    sizes = {
        "GPT2": {"n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 2},
        "Llama": attention,
        "Mistral": {**attention, "sliding_window": 6},
        "Gemma2": {**attention, "head_dim": 8, "sliding_window": 6},
        "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2},
    }

    def make(name):
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(
            vocab_size=290, bos_token_id=0, eos_token_id=1, pad_token_id=None, **sizes[name]
        )
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        return model

    return make
