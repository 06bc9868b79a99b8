"""Against lm-evaluation-harness' own tokenizing (`TemplateLM`), where it is installed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.errors import DataError

transformers = pytest.importorskip("transformers")

KINDS = ("bos", "plain", "eos only")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Byte-level tokenizers: one that puts a BOS in front (Llama's way), one that adds nothing, one without BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(["the cat sees the house and the river"] * 5, trainer)
        if kind == "bos":
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        special = {"eos_token": "</s>"} if kind == "eos only" else {"bos_token": "<s>", "eos_token": "</s>"}
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, **special)
        fast.save_pretrained(place / kind)
    return place


@pytest.fixture(scope="module", params=KINDS)
def both(request, place):
    """Ours, and the harness'."""
    api = pytest.importorskip("lm_eval.models.huggingface", reason="the oracle is lm-evaluation-harness")
    path = str(place / request.param)
    theirs = api.HFLM.__new__(api.HFLM)  # tokenizing needs no model
    theirs.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    theirs.add_bos_token, theirs.custom_prefix_token_id, theirs.backend = None, None, "causal"
    return CausalTokenizer(path), theirs


WRITING = st.text(alphabet="the catriv\n é<s>/", max_size=25)


@settings(max_examples=60, deadline=None)
@given(text=WRITING)
def test_a_text_has_the_tokens_of_the_harness(both, text):
    ours, theirs = both
    assert ours.prefix == theirs.prefix_token_id
    assert ours.encode(text) == theirs.tok_encode(text)


@settings(max_examples=80, deadline=None)
@given(context=WRITING.filter(lambda text: text.strip()), continuation=WRITING)
def test_a_pair_has_the_tokens_of_the_harness(both, context, continuation):
    ours, theirs = both
    expected = theirs._encode_pair(context, continuation)
    if not expected[1]:
        with pytest.raises(DataError, match="no tokens of its own"):
            ours.encode_pair(context, continuation)
    else:
        assert ours.encode_pair(context, continuation) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("continuation", ["the cat", "<s>the", "</s>the"])
def test_without_a_context_the_prefix_token_stands_for_it(place, kind, continuation):
    tokenizer = CausalTokenizer(str(place / kind))
    read, scored = tokenizer.encode_pair("", continuation)
    assert read == [tokenizer.prefix]
    plain = transformers.AutoTokenizer.from_pretrained(place / kind).encode(continuation, add_special_tokens=False)
    assert [*read, *scored] == (plain if plain[0] == tokenizer.prefix else [*read, *plain])


@pytest.mark.parametrize("kind", KINDS)
def test_spans_end_where_the_tokens_do(place, kind):
    tokenizer = CausalTokenizer(str(place / kind))
    text = "the cat é sees"
    tokens, ends = tokenizer.spans(text)
    assert tokens == tokenizer.encode(text)
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


def test_the_limit_is_given_configured_or_the_tokenizers(place, tmp_path):
    path = place / "plain"
    assert CausalTokenizer(str(path), max_length=7).limit == 7
    assert CausalTokenizer(str(path)).limit == 40
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    transformers.LlamaConfig(max_position_embeddings=24).save_pretrained(tmp_path)
    assert CausalTokenizer(str(tmp_path)).limit == 24


def test_what_is_missing_is_named(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="set max_length"):
        _ = CausalTokenizer(str(tmp_path)).limit
    with pytest.raises(DataError, match="neither a bos_token nor an eos_token"):
        _ = CausalTokenizer(str(tmp_path)).prefix


def test_the_identity_is_one_of_content(place, tmp_path):
    transformers.AutoTokenizer.from_pretrained(place / "plain").save_pretrained(tmp_path / "moved")
    here, moved = CausalTokenizer(str(place / "plain")), CausalTokenizer(str(tmp_path / "moved"))
    assert here.identity() == moved.identity()
    assert here.identity() != CausalTokenizer(str(place / "bos")).identity()
    assert here.identity() != CausalTokenizer(str(place / "plain"), max_length=8).identity()


def test_a_context_of_white_space_is_refused(place):
    with pytest.raises(DataError, match="nothing but white space"):
        CausalTokenizer(str(place / "bos")).encode_pair("  \n", "the")
