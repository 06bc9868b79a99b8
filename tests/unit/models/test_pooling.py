"""Pooling of tokens, against the definitions of sentence-transformers written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import LinearHead, Pooled
from fusion_eval.models.pooling import POOLINGS, pool_tokens

SIDES = ("left", "right")


def padded(rows, side, padding):
    """Rows of tokens as a batch whose padding holds anything, and its mask."""
    longest = max(map(len, rows))
    hidden = torch.full((len(rows), longest, rows[0].shape[1]), padding)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        hidden[index, place], mask[index, place] = row, 1
    return hidden, mask


@pytest.mark.parametrize("side", SIDES)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), padding=st.sampled_from([0.0, 1e9, -5.0]))
def test_every_pooling_sees_the_tokens_alone(side, lengths, padding):
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randn(length, 3, generator=generator) for length in lengths]
    hidden, mask = padded(rows, side, padding)
    expected = {
        "mean": torch.stack([row.mean(dim=0) for row in rows]),
        "cls": torch.stack([row[0] for row in rows]),
        "last": torch.stack([row[-1] for row in rows]),
    }
    assert expected.keys() == POOLINGS.keys()
    for pooling, vectors in expected.items():
        torch.testing.assert_close(pool_tokens(hidden, mask, pooling), vectors, atol=1e-5, rtol=1e-5)


def test_a_head_takes_what_was_pooled(tmp_path):
    weight = torch.randn(4, 3)
    save_file({"weight": weight}, tmp_path / "head.safetensors")
    hidden, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    embeddings = functional.normalize(pool_tokens(hidden, mask, "mean"), dim=-1)
    output, inputs = BaseModelOutput(last_hidden_state=hidden), {"attention_mask": mask}
    torch.testing.assert_close(Pooled().load()(output, inputs), embeddings)
    head = Pooled(head=LinearHead(str(tmp_path / "head.safetensors"))).load()
    torch.testing.assert_close(head(output, inputs), embeddings @ weight.T)


def test_vectors_keep_their_length_if_asked_for():
    hidden, mask = torch.randn(2, 5, 3), torch.ones(2, 5)
    pooled = Pooled("last", normalise=False).load()(BaseModelOutput(last_hidden_state=hidden), {"attention_mask": mask})
    torch.testing.assert_close(pooled, hidden[:, -1])


def test_what_cannot_be_pooled_is_named():
    with pytest.raises(ConfigError, match=r"pooling='maen'; did you mean 'mean'\? Known: cls, last, mean"):
        Pooled("maen")
    with pytest.raises(TaskError, match=r"pooling needs last_hidden_state, but the model returned logits"):
        Pooled().load()({"logits": torch.zeros(2, 2)}, {"attention_mask": torch.ones(2, 3)})
    with pytest.raises(TaskError, match=r"pooling needs attention_mask, but the model was given Tensor"):
        Pooled().load()({"last_hidden_state": torch.zeros(2, 3, 4)}, torch.zeros(2, 3))
