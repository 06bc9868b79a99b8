from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from fusion_eval.models import CLIPTextTower
from fusion_eval.models.clip.packing import pack_prompts
from fusion_eval.models.clip.prompts import Prompts

LENGTH = 12
PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=LENGTH), min_size=1, max_size=30)

ODD = {
    "a single one": ["a cat"],
    "identical": ["a cat", "the dog", "a cat", "a cat"],
    "one the beginning of the other": ["a photo of a cat", "a photo of a", "a photo of a cat that sleeps", "a"],
    "nothing in common": ["cat", "the dog", "moon", "9"],
    "no words": [" ", ".", "?!", "\n"],
    "not in order, of all lengths": ["z " * 40, "b", "a " * 30 + "end", "a " * 31 + "end", "z " * 41, "a b"],
    "too long": ["crane " * 200, "crane " * 201 + "end", "crane " * 75, "crane"],
    "an end token within": ["a <|endoftext|> cat", "a <|endoftext|> dog", "a"],
    "a character that the vocabulary has not": ["a お cat", "a お", "ß"],
    "a data set": Prompts.read("eurosat").texts,
    "many rows": [f"{number} of {100 - number} things" for number in range(60)],
}


def ids_of(packed, number):
    """The tokens that the last token of a prompt sees, in the order of their positions."""
    row, end = packed.rows[number], packed.ends[number]
    seen = (packed.inputs["attention_mask"][row, 0, end] == 0).nonzero()[:, 0]
    assert seen.max() == end
    assert packed.inputs["position_ids"][row, seen].tolist() == list(range(len(seen)))
    return packed.inputs["input_ids"][row, seen].tolist()


def beginnings(prompts):
    return {tuple(prompt[:length]) for prompt in prompts for length in range(1, len(prompt) + 1)}


@given(PROMPTS)
def test_the_last_token_of_a_prompt_sees_the_prompt(prompts):
    packed = pack_prompts(prompts, LENGTH)
    assert [ids_of(packed, number) for number in range(len(prompts))] == prompts
    assert packed.inputs["input_ids"].shape[1] <= LENGTH


@given(PROMPTS)
def test_where_one_row_has_room_each_beginning_is_there_once(prompts):
    packed = pack_prompts(prompts, length=1000)
    assert packed.inputs["input_ids"].shape == (1, len(beginnings(prompts)))


def test_what_is_shared_takes_no_room_again():
    packed = pack_prompts([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3]], length=5)
    assert packed.inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5]]


@given(PROMPTS)
def test_every_token_sees_a_beginning_of_a_prompt(prompts):
    packed = pack_prompts(prompts, LENGTH)
    mask, ids = packed.inputs["attention_mask"], packed.inputs["input_ids"]
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
    fill = [(0,)]  # sees itself only
    for row in range(len(ids)):
        for place in range(ids.shape[1]):
            assert tuple(ids[row, mask[row, 0, place] == 0].tolist()) in [*beginnings(prompts), *fill]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_batches_are_all_rows_in_order(size):
    packed = pack_prompts([[token, 7, 8] for token in range(7)], length=6)
    batches = list(packed.batches(size))
    assert {len(tensor) for batch in batches[:-1] for tensor in batch.values()} <= {size}
    for name, tensor in packed.inputs.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), tensor)


@torch.no_grad()
def alone(checkpoint, prompts):
    """Embeddings by transformers, one prompt at a time."""
    model, tokenizer = CLIPModel.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    context = model.config.text_config.max_position_embeddings
    rows = [
        model.text_model(**tokenizer(prompt, truncation=True, max_length=context, return_tensors="pt")).pooler_output
        for prompt in prompts
    ]
    return model.text_projection(torch.cat(rows))


def configured(checkpoint, **changes):
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    config["text_config"].update(changes)
    file.write_text(json.dumps(config))
    return checkpoint


@torch.no_grad()
def same(checkpoint, prompts):
    found = CLIPTextTower(str(checkpoint)).load().embed(prompts)
    torch.testing.assert_close(found, alone(checkpoint, prompts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", ODD.values(), ids=ODD)
def test_embeddings_are_those_of_each_prompt_alone(oracle, prompts):
    same(oracle / "base", prompts)


@pytest.mark.parametrize("prompts", ODD.values(), ids=ODD)
def test_old_configurations_pool_the_token_with_the_highest_number(checkpoint, prompts):
    same(configured(checkpoint, eos_token_id=2, bos_token_id=0, pad_token_id=1), prompts)


def test_without_an_end_token_the_first_token_is_pooled_as_transformers_does(checkpoint):
    same(configured(checkpoint, eos_token_id=5), ["a cat", "the dog"])


def test_a_shorter_context_has_shorter_rows(checkpoint):
    file = checkpoint / "model.safetensors"
    name = "text_model.embeddings.position_embedding.weight"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name][:9].clone()}, file)
    same(configured(checkpoint, max_position_embeddings=9), ODD["a data set"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_mask_rules_whatever_computes_attention(oracle, attention):
    model = CLIPModel.from_pretrained(oracle / "base", attn_implementation=attention).eval().text_model
    prompts = [[1116, 5, 6, 1117], [1116, 5, 7, 8, 1117], [1116, 1117]]
    packed = pack_prompts(prompts, length=77)
    with torch.no_grad():
        found = model(**packed.inputs).last_hidden_state[packed.rows, packed.ends]
        expected = torch.cat([model(torch.tensor([ids])).pooler_output for ids in prompts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
