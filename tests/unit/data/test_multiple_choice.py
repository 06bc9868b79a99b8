from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.data import ChoicePrompts, CompletionPrompt
from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.data.language_modelling import IGNORED
from fusion_eval.errors import ConfigError, DataError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer that puts a BOS in front, and has no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the cat sees the house"] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return ChoicePrompts(tokenizer, "Q: {{ question }}\nA:", "choices", max_length=30)


WRITING = st.text(alphabet="the catsuo é", min_size=1, max_size=12).filter(str.strip)
QUESTIONS = st.lists(
    st.fixed_dictionaries({"question": WRITING, "choices": st.lists(WRITING, min_size=1, max_size=4)}),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(rows=QUESTIONS)
def test_a_batch_holds_every_row_that_is_scored(prompts, rows):
    items = [(prompts(row), 0) for row in rows]
    inputs, targets = prompts.collate(items)
    assert targets.tolist() == [0] * len(rows)
    one = CausalTokenizer(prompts.tokenizer, 30)
    place = 0
    for number, row in enumerate(rows):
        for column, choice in enumerate(row["choices"]):
            read, scored = one.encode_pair(f"Q: {row['question']}\nA:", f" {choice}")
            read = read[-(31 - len(scored)) :]
            context = inputs["context_of"][place]
            ids = torch.cat([inputs["contexts"][context], inputs["continuations"][place]])
            mask = torch.cat([inputs["contexts_mask"][context], inputs["continuations_mask"][place]])
            assert ids[mask.bool()].tolist() == [*read, *scored][:-1]
            labels = inputs["labels"][place]
            assert labels[labels != IGNORED].tolist() == scored
            assert inputs["places"][place].tolist() == [number, column]
            assert inputs["sizes"][number, column].tolist() == [len(choice), len(choice.encode())]
            place += 1
    assert len(inputs["contexts"]) <= place == len(inputs["labels"])


def test_a_context_that_choices_share_is_in_the_batch_once(prompts):
    row = {"question": "the cat", "choices": ["sees", "the house", "é"]}
    inputs, _ = prompts.collate([(prompts(row), 1), (prompts(row), 2)])
    assert len(inputs["contexts"]) == 1
    assert len(inputs["labels"]) == 6


def test_the_target_is_an_index_or_a_label(prompts):
    row = {"question": "the", "choices": ["a", "b"], "labels": ["1", "2"]}
    indices = prompts.collate([(prompts(row), 1), (prompts(row), torch.tensor(0))])[1]
    assert indices.tolist() == [1, 0]
    labelled = replace(prompts, labels="labels")
    assert labelled.collate([(labelled(row), "2")])[1].tolist() == [1]
    with pytest.raises(DataError, match="target '3' is none of the choices: 1, 2"):
        labelled.collate([(labelled(row), "3")])
    with pytest.raises(DataError, match="2 choices, but 3 labels"):
        replace(prompts, labels="[1, 2, 3]")(row)


def test_a_long_context_loses_its_left_and_is_counted(prompts):
    short, long = ({"question": text, "choices": ["sees", "the house it sees"]} for text in ("a", "the cat " * 30))
    assert not prompts(short)["truncated"]
    cut = prompts(long)
    assert cut["truncated"]
    assert [len(read) + len(scored) for read, scored in cut["pairs"]] == [31, 31]
    assert prompts.length(long) == 31
    _, targets = prompts.collate([(prompts(short), 0), (cut, 1)])
    assert targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "choices": []}, "should give a list of texts"),
        ({"question": "a", "choices": "ab"}, "should give a list of texts"),
        ({"question": "a", "choices": ["a", 1]}, "should give a list of texts"),
        ({"question": "a"}, "'choices' is undefined"),
        ({"choices": ["a"]}, "'question' is undefined"),
        ({"question": "a", "choices": ["z" * 40]}, "a choice has 4. tokens, the model reads 30"),
    ],
)
def test_rows_that_are_no_questions_are_refused(prompts, row, message):
    with pytest.raises(DataError, match=message):
        prompts(row)


@pytest.mark.parametrize("field", ["context", "choices", "continuation", "labels"])
def test_malformed_templates_are_refused_when_written(field):
    with pytest.raises(ConfigError, match="template"):
        ChoicePrompts(**{"tokenizer": "t", "context": "c", "choices": "c", field: "{{ a ("})


def test_identities_tell_settings_apart_and_not_places(prompts, tmp_path):
    transformers.AutoTokenizer.from_pretrained(prompts.tokenizer).save_pretrained(tmp_path)
    moved = replace(prompts, tokenizer=str(tmp_path))
    assert moved.identity() == prompts.identity()
    others = [replace(moved, context="{{ question }}"), replace(moved, max_length=20), replace(moved, choices="labels")]
    assert len({prompts.identity(), *(other.identity() for other in others)}) == 4


def test_a_completion_prompt_leaves_room_and_counts_what_it_cuts(tokenizer):
    prompt = CompletionPrompt(tokenizer, "{{ question }}", max_new_tokens=10, max_length=30)
    short, long = {"question": "the cat"}, {"question": "the cat " * 30}
    tokens = CausalTokenizer(tokenizer).encode(long["question"])
    assert prompt(short)["input_ids"].tolist() == CausalTokenizer(tokenizer).encode("the cat")
    assert prompt(long)["input_ids"].tolist() == tokens[-20:]
    assert prompt.length(long) == 20
    inputs, targets = prompt.collate([(prompt(short), "sees"), (prompt(long), "house")])
    assert inputs["truncated"].tolist() == [False, True]
    assert inputs["attention_mask"].sum(dim=1).tolist() == [prompt.length(short), 20]
    assert inputs["input_ids"][0, -prompt.length(short) :].tolist() == prompt(short)["input_ids"].tolist()
    assert targets == ["sees", "house"]


def test_completion_prompts_that_cannot_be_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        CompletionPrompt(tokenizer, "a", max_new_tokens=0)
    with pytest.raises(ConfigError, match="template"):
        CompletionPrompt(tokenizer, "{{ a")
    with pytest.raises(DataError, match="max_new_tokens=10 leaves no room"):
        CompletionPrompt(tokenizer, "a", max_new_tokens=10, max_length=10)({})
