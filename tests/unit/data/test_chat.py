"""Conversations, against transformers' own chat template."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fusion_eval.data import Chat, Tokenized
from fusion_eval.data.transform import identify_transform
from fusion_eval.errors import ConfigError, DataError

TEMPLATE = "{% for message in messages %}{{ message.role }} says {{ message.content }} . {% endfor %}"


def saved(path, template):
    words = ["[PAD]", "[UNK]", "user", "assistant", "system", "says", ".", "hello", "there", "friend"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("chat"), TEMPLATE)


def test_turns_are_those_of_the_chat_template(tokenizer):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello friend"}]
    own = PreTrainedTokenizerFast.from_pretrained(tokenizer).apply_chat_template(messages, return_dict=True)
    asked = {"prompt": "hello", "chosen": "hello friend"}
    inputs = Chat(tokenizer)(asked)
    assert inputs["input_ids"].tolist() == own["input_ids"] == [2, 5, 7, 6, 3, 5, 7, 9, 6]
    assert Chat(tokenizer)({"chosen": messages})["input_ids"].tolist() == own["input_ids"]
    assert Chat(tokenizer).length(asked) == 9
    cut = Chat(tokenizer, max_length=4)(asked)
    assert cut["input_ids"].tolist() == own["input_ids"][:4]
    assert cut["truncated"]


def test_a_system_message_stays_what_it_is(tokenizer):
    said = [{"role": "system", "content": "there"}]
    assert Chat(tokenizer)({"messages": said})["input_ids"].tolist() == [4, 5, 8, 6]


def test_identity_knows_the_chat_template(tokenizer, tmp_path):
    other = saved(tmp_path, TEMPLATE.replace("says", "there"))
    made = [Chat(tokenizer), Chat(other), Tokenized(tokenizer, special_tokens=False)]
    assert len({identify_transform(transform) for transform in made}) == 3
    assert len({transform.identity() for transform in made}) == 3


def test_what_cannot_be_said_is_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"Chat: template='{a}'; a chat has the template of its tokenizer"):
        Chat(tokenizer, template="{a}")
    with pytest.raises(DataError, match=r"column 'a' should be a text or a list of messages .*, found 3"):
        Chat(tokenizer)({"a": 3})
    with pytest.raises(DataError, match=r"column 'a' should be .*found \['hello'\]"):
        Chat(tokenizer)({"a": ["hello"]})
    with pytest.raises(DataError, match=r"the chat template fails on .*chat_template is not set"):
        Chat(saved(tmp_path, None))({"a": "hello"})
