from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.data.prepared.leaves import UnstorableError, assemble, leaves_of

DTYPES = (
    torch.uint8,
    torch.bool,
    torch.int16,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
TENSORS = st.builds(
    lambda dtype, shape: (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PART = st.recursive(
    TENSORS | PLAIN, lambda inner: st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3), max_leaves=4
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@given(inputs=PART, target=PART)
def test_an_item_comes_back_as_it_was(inputs, target):
    found = leaves_of((inputs, target))
    leaves = [leaf for leaf, _ in found]
    again = assemble(leaves, lambda place: leaves[place].restore(found[place][1]))
    assert same(inputs, again[0])
    assert same(target, again[1])


REFUSED = {
    "tuple": (1, 2),
    "int key": {1: 2},
    "int key of a tensor": {1: torch.ones(1)},
    "class": object,
    "bytes": b"bytes",
    "too large": 2**63,
    "list of tensors": [torch.ones(1)],
    "complex": 1j,
    "complex tensor": torch.ones(2, dtype=torch.cfloat),
    "sparse tensor": torch.ones(2).to_sparse(),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_would_come_back_as_something_else_is_refused(value):
    with pytest.raises(UnstorableError):
        leaves_of((value, 0))
