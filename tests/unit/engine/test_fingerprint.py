from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fusion_eval.engine.fingerprint import (
    _hash,
    _remembered,
    describe_architecture,
    fingerprint_config,
    fingerprint_weights,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Mixed(nn.Module):
    """Parameters and buffers of every awkward kind."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("hidden", torch.arange(4), persistent=False)
        self.tied = self.matrix

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


def test_a_copy_and_a_reloaded_model_have_the_same_weights():
    model, again = Mixed(), Mixed()
    again.load_state_dict(model.state_dict())
    assert fingerprint_weights(model) == fingerprint_weights(copy.deepcopy(model)) == fingerprint_weights(again)


def test_memory_layout_mode_and_gradients_do_not_count():
    model, other = Mixed(), Mixed().eval().requires_grad_(False)
    other.matrix.data = other.matrix.data.T.contiguous().T
    assert fingerprint_weights(model) == fingerprint_weights(other)


@pytest.mark.parametrize("name", ["matrix", "scale", "narrow", "steps", "mask", "hidden"])
def test_one_changed_element_of_any_tensor_is_another_fingerprint(name):
    model, other = Mixed(), Mixed()
    flat = getattr(other, name).data.view(-1)
    flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1] + 1
    assert fingerprint_weights(model) != fingerprint_weights(other)


def test_names_shapes_and_dtypes_count():
    tensor = torch.zeros(4)
    variants = [("a", tensor), ("b", tensor), ("a", tensor.reshape(2, 2)), ("a", tensor.int()), ("a", torch.zeros(2))]
    digests = set()
    for name, value in variants:
        module = nn.Module()
        module.register_buffer(name, value)
        digests.add(fingerprint_weights(module))
    assert len(digests) == len(variants)


def test_the_architecture_is_classes_and_attributes_but_not_weights_or_mode():
    class Scaled(nn.Linear):
        factor = 1.0

    first, second = Scaled(2, 2), Scaled(2, 2).eval()
    assert describe_architecture(first) == describe_architecture(second)
    second.factor = 3.0
    assert describe_architecture(first) != describe_architecture(second)
    assert describe_architecture(nn.Linear(2, 2)) != describe_architecture(first)
    assert describe_architecture(nn.Sequential(nn.ReLU())) != describe_architecture(nn.Sequential(nn.GELU()))


def test_a_hook_is_part_of_the_architecture():
    model, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, inputs, output: -output)
    assert describe_architecture(model) != describe_architecture(hooked)


@given(value=PLAIN)
def test_equal_configs_have_equal_fingerprints_whatever_the_order_of_keys(value):
    def reverse(node):
        if isinstance(node, dict):
            return {key: reverse(node[key]) for key in reversed(node)}
        return [reverse(item) for item in node] if isinstance(node, list) else node

    assert fingerprint_config(value) == fingerprint_config(reverse(value))
    assert fingerprint_config(value) != fingerprint_config(value, value)
    assert fingerprint_config(value) != fingerprint_config([value])


@pytest.mark.parametrize("name", ["matrix", "scale", "narrow", "steps", "mask", "hidden"])
def test_a_change_is_seen_behind_the_back_of_autograd_too(name):
    model = Mixed()
    before = fingerprint_weights(model)
    assert fingerprint_weights(model) == before
    flat = getattr(model, name).data.view(-1)
    flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1] + 1
    changed = fingerprint_weights(model)
    assert changed != before
    assert changed == fingerprint_weights(copy.deepcopy(model))


def test_the_digest_is_computed_only_when_something_changed():
    owner, computed = nn.Linear(2, 2), []
    for value in (1.0, 1.0, 2.0):
        _remembered(owner, {"x": torch.full((3,), value)}, lambda: str(computed.append(1)))
    assert len(computed) == 2
    _remembered(owner, {"x": torch.full((3,), 2.0).double()}, lambda: str(computed.append(1)))
    _remembered(nn.Linear(2, 2), {"x": torch.full((3,), 2.0)}, lambda: str(computed.append(1)))
    assert len(computed) == 4


@given(
    content=st.binary(min_size=1, max_size=70),
    place=st.integers(0, 10**6),
    bit=st.integers(0, 7),
    other=st.integers(0, 10**6),
)
def test_the_hash_of_the_gpu_tells_contents_apart(content, place, bit, other):
    def hashed(data):
        return _hash(torch.tensor(list(data), dtype=torch.uint8))

    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << bit
    assert hashed(flipped) != hashed(content) == hashed(bytes(content))
    swapped = bytearray(content)
    a, b = place % len(content), other % len(content)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    assert (hashed(swapped) == hashed(content)) == (swapped == content)


def test_the_hash_of_the_gpu_tells_rows_apart():
    rows = torch.arange(3 * 2**20, dtype=torch.int32).view(3, -1)
    first = _hash(rows.flatten().view(torch.uint8))
    for order in ([1, 0, 2], [2, 1, 0], [0, 2, 1]):
        assert _hash(rows[order].flatten().view(torch.uint8)) != first
