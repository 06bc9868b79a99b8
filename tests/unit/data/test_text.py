from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities import move_data_to_device
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import AutoTokenizer, BertModel, BertTokenizerFast, GPT2Model

from fusion_eval.data import HuggingFace, Tokenized
from fusion_eval.data.inputs import ModelInputs, columns_of
from fusion_eval.data.text import pad_rows
from fusion_eval.data.tokenizer import fallback_token, identify_tokenizer, load_tokenizer, model_limit
from fusion_eval.errors import ConfigError, DataError

ORACLES = Path(__file__).parents[2] / "oracles" / "glue"
GPT2, T5 = str(ORACLES / "gpt2" / "base"), str(ORACLES / "t5")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sat", "##s", "."]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    path = tmp_path_factory.mktemp("bert")
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=8).save_pretrained(path)
    return str(path)


def ids(transform, value):
    return transform(value)["input_ids"].tolist()


def test_a_text_is_what_the_tokenizer_makes_of_it(bert):
    transform = Tokenized(bert)
    expected = AutoTokenizer.from_pretrained(bert)("A cat sat.", return_tensors="pt")
    found = transform("A cat sat.")
    assert (
        found.keys()
        == {*expected.keys(), "truncated"}
        == {"input_ids", "token_type_ids", "attention_mask", "truncated"}
    )
    for name in expected:
        assert found[name].tolist() == expected[name][0].tolist()
        assert found[name].dtype == torch.int64
    assert found["truncated"].tolist() is False


def test_two_columns_are_text_and_pair_in_their_order(bert):
    found = Tokenized(bert)({"second": "dog", "first": "a cat"})
    expected = AutoTokenizer.from_pretrained(bert)("dog", "a cat")
    assert found["input_ids"].tolist() == expected["input_ids"]
    assert found["token_type_ids"].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_template_names_the_columns_and_may_leave_some_out():
    transform = Tokenized(GPT2, template="{{{b}}} of '{a}'")
    assert load_tokenizer(GPT2).decode(transform({"a": "{b}", "b": "x", "c": "y"})["input_ids"]) == "{x} of '{b}'"
    assert ids(Tokenized(GPT2, template="Is {} bad?"), "it") == ids(Tokenized(GPT2), "Is it bad?")


def test_special_tokens_can_be_left_out(bert):
    assert ids(Tokenized(bert, special_tokens=False), "a cat") == [5, 6]


@pytest.mark.parametrize("truncation", ["right", "left"])
@pytest.mark.parametrize("value", ["a cat sat a dog sat", {"x": "a cat sat a dog", "y": "dog cat dog"}])
def test_what_is_too_long_is_cut_as_transformers_cuts_it_and_marked(bert, truncation, value):
    transform = Tokenized(bert, max_length=6, truncation=truncation)
    oracle = AutoTokenizer.from_pretrained(bert, truncation_side=truncation)
    texts = [value] if isinstance(value, str) else list(value.values())
    assert ids(transform, value) == oracle(*texts, truncation="longest_first", max_length=6)["input_ids"]
    assert bool(transform(value)["truncated"])
    assert transform.length(value) == 6


def test_the_limit_is_the_tokenizers_own_unless_it_has_none(bert):
    assert model_limit(load_tokenizer(bert)) == 8
    assert Tokenized(bert).length("cat " * 50) == 8
    assert model_limit(load_tokenizer(GPT2)) is None
    long = Tokenized(GPT2)("x" * 3000)
    assert len(long["input_ids"]) == 3000
    assert not long["truncated"]


def test_a_text_of_exactly_the_limit_is_whole(bert):
    assert not Tokenized(bert, max_length=5)("a cat sat")["truncated"]
    assert Tokenized(bert, max_length=4)("a cat sat")["truncated"]


def test_an_empty_text_is_one_token_that_is_attended_to(bert):
    found = Tokenized(GPT2)("")
    assert (found["input_ids"].tolist(), found["attention_mask"].tolist()) == ([256], [1])
    assert ids(Tokenized(bert), "") == [2, 3]
    assert Tokenized(GPT2).length("") == 1


def test_a_batch_is_padded_on_the_right(bert):
    transform = Tokenized(bert)
    items = [(transform(text), index) for index, text in enumerate(["a cat sat", "dog"])]
    inputs, targets = transform.collate(items)
    expected = AutoTokenizer.from_pretrained(bert)(["a cat sat", "dog"], padding=True, return_tensors="pt")
    assert {name: tensor.tolist() for name, tensor in inputs.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    assert targets.tolist() == [0, 1]
    assert columns_of(inputs)["truncated"].tolist() == [False, False]


def test_a_batch_is_padded_on_the_left_with_positions_by_a_tokenizer_without_a_pad_token():
    transform = Tokenized(GPT2, padding="left")
    inputs, targets = transform.collate([(transform("abc"), "first"), (transform("d"), "second")])
    assert load_tokenizer(GPT2).pad_token_id is None
    assert inputs["input_ids"][1].tolist()[:2] == [256, 256]  # the end of the text
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert targets == ["first", "second"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.sampled_from(["left", "right"]))
def test_padding_loses_nothing(texts, side):
    transform = Tokenized(GPT2, padding=side, max_length=20)
    items = [(transform(text), 0) for text in texts]
    inputs, _ = transform.collate(items)
    for index, (item, _) in enumerate(items):
        kept = inputs["attention_mask"][index].bool()
        assert inputs["input_ids"][index][kept].tolist() == item["input_ids"].tolist()
        assert transform.length(texts[index]) == kept.sum()
        assert bool(inputs.columns["truncated"][index]) == (len(texts[index].encode()) > 20)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_makes_the_same_of_a_padded_text(side):
    model = GPT2Model.from_pretrained(GPT2).eval()
    transform = Tokenized(GPT2, padding=side)
    texts = ["A cat sat on the mat.", "It", "Who wrote the letter?"]
    inputs, _ = transform.collate([(transform(text), 0) for text in texts])
    with torch.inference_mode():
        batch = model(**inputs).last_hidden_state
        for index, text in enumerate(texts):
            alone = model(transform(text)["input_ids"][None]).last_hidden_state[0]
            torch.testing.assert_close(batch[index][inputs["attention_mask"][index].bool()], alone, rtol=0, atol=1e-5)


def test_a_text_is_tokenized_once(monkeypatch):
    transform = Tokenized(GPT2)
    calls = []
    tokenize = Tokenized._tokenize
    monkeypatch.setattr(
        Tokenized, "_tokenize", lambda self, *args, **kwargs: calls.append(1) or tokenize(self, *args, **kwargs)
    )
    for _ in range(3):
        transform.length("twice")
        transform("twice")
    assert calls == [1]


def test_a_data_set_of_text_knows_its_lengths_and_keeps_its_fingerprint_elsewhere(tmp_path):
    rows = [{"text": "x" * length, "label": length % 2} for length in (3, 9, 1, 5)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    shutil.copytree(GPT2, tmp_path / "tokenizer")
    samples = HuggingFace(str(tmp_path / "data"), input="text", target="label", transform=Tokenized(GPT2)).load()
    moved = Tokenized(str(tmp_path / "tokenizer"))
    elsewhere = HuggingFace(str(tmp_path / "data"), input="text", target="label", transform=moved).load()
    cut = HuggingFace(str(tmp_path / "data"), input="text", target="label", transform=Tokenized(GPT2, max_length=9))
    assert samples.lengths().tolist() == [3, 9, 1, 5]
    batches = [samples.collate([samples[index] for index in pair]) for pair in ((1, 3), (0, 2))]
    assert [tuple(inputs["input_ids"].shape) for inputs, _ in batches] == [(2, 9), (2, 3)]
    assert samples.fingerprint() == elsewhere.fingerprint() != cut.load().fingerprint()


def test_a_worker_gets_the_transform(tmp_path):
    Dataset.from_list([{"text": "ab", "label": 0}]).save_to_disk(tmp_path)
    transform = Tokenized(GPT2)
    samples = HuggingFace(str(tmp_path), input="text", target="label", transform=transform).load()
    assert samples.lengths().tolist() == [2]
    [(inputs, _)] = DataLoader(samples, num_workers=1, collate_fn=samples.collate)
    assert inputs.columns["truncated"].tolist() == [False]
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_the_tokenizer_is_known_by_its_content(tmp_path):
    shutil.copytree(GPT2, tmp_path / "same")
    shutil.copytree(GPT2, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    config["model"]["vocab"] = dict(zip(config["model"]["vocab"], [1, 0, *range(2, 257)], strict=True))
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(config))
    before = identify_tokenizer(GPT2)
    load_tokenizer(GPT2)(["ab", "c"], padding=False, truncation=True, max_length=1)  # leaves its trace in the tokenizer
    identify_tokenizer.cache_clear()
    assert before == identify_tokenizer(GPT2) == identify_tokenizer(str(tmp_path / "same"))
    assert before != identify_tokenizer(str(tmp_path / "other"))


def test_settings_are_part_of_the_identity():
    known = {
        Tokenized(GPT2, **setting).identity()
        for setting in (
            {},
            {"max_length": 9},
            {"padding": "left"},
            {"truncation": "left"},
            {"template": "{}!"},
            {"special_tokens": False},
        )
    }
    assert len(known) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "both"}, "padding='both'; choose one of right, left"),
        ({"truncation": "middle"}, "truncation='middle'"),
        ({"max_length": 0}, "max_length=0; it should be at least 1 token"),
        ({"template": "no columns"}, "it should name columns in braces"),
        ({"template": "{a.__class__}"}, "it should name columns in braces"),
        ({"template": "{a:>9}"}, "it should name columns in braces"),
        ({"template": "{0}"}, "it should name columns in braces"),
        ({"template": "{} {a}"}, "stands for the only text"),
        ({"template": "{a"}, "write {{ for a brace"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(arguments, message):
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("(", r"\(")):
        Tokenized("no/such", **arguments)


@pytest.mark.parametrize(
    ("transform", "value", "message"),
    [
        (Tokenized(GPT2), None, r"the input should be a text, found None \(NoneType\)"),
        (Tokenized(GPT2), "half \ud800", r"'half \\ud800',\) is no Unicode text"),
        (Tokenized(GPT2), {"a": "x", "b": 3}, r"column 'b' should be a text, found 3 \(int\)"),
        (Tokenized(GPT2), {"a": "x", "b": "y", "c": "z"}, r"3 columns of text \(a, b, c\); give a template"),
        (Tokenized(GPT2, template="{premis}"), {"premise": "x"}, "no column 'premis' for the template; did you mean"),
        (Tokenized(GPT2, template="{}"), {"premise": "x"}, "the columns have names: premise"),
        (Tokenized("/no/such"), "x", "/no/such: no such directory"),
        (Tokenized(str(ORACLES)), "x", "no tokenizer can be loaded: .*; expected the files that save_pretrained"),
    ],
)
def test_what_cannot_be_tokenized_is_refused_with_the_reason(transform, value, message):
    with pytest.raises(DataError, match=message):
        transform(value)


def test_offline_the_message_says_what_to_download(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"from_pretrained\('no/such'\)\.save_pretrained\('DIR'\) where there is"):
        load_tokenizer("no/such@main")


def test_a_special_token_is_found_or_replaced():
    tokenizer = load_tokenizer(GPT2)
    assert fallback_token(tokenizer, "pad", "eos") == 256
    assert fallback_token(tokenizer, "pad", "sep") == 0
    assert fallback_token(load_tokenizer(T5), "pad", "eos") == 0


def test_inputs_keep_their_columns_on_the_way_to_the_device():
    inputs = ModelInputs({"input_ids": torch.zeros(2, 3)}, {"truncated": torch.tensor([True, False])})
    for targets in (torch.zeros(2), ["a", "b"]):
        moved, _ = move_data_to_device((inputs, targets), torch.device("meta"))
        assert moved["input_ids"].device.type == columns_of(moved)["truncated"].device.type == "meta"
    assert columns_of(pickle.loads(pickle.dumps(inputs)))["truncated"].tolist() == [True, False]
    assert columns_of({"input_ids": torch.zeros(2)}) == {} == columns_of(torch.zeros(2))
    if torch.cuda.is_available():
        assert columns_of(pin_memory(inputs))["truncated"].tolist() == [True, False]


def test_rows_of_vectors_are_padded():
    padded = pad_rows([torch.ones(1, 2), torch.ones(3, 2)], -1.0)
    assert padded.shape == (2, 3, 2)
    assert padded[0, 1:].unique().tolist() == [-1.0]


def test_bert_reads_what_is_made(bert):
    from transformers import BertConfig

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=11, **size))
    transform = Tokenized(bert)
    inputs, _ = transform.collate([(transform({"a": "cat", "b": "dog sat"}), 0)])
    assert model(**inputs).pooler_output.shape == (1, 8)
