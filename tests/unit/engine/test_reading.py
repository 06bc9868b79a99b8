from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from fusion_eval.data import Samples, TensorSamples
from fusion_eval.data.inputs import ModelInputs
from fusion_eval.engine.batch_size import BatchSize
from fusion_eval.engine.reading import Feed, ItemReader, StoreReader, TensorReader

TENSORS = TensorSamples(torch.randn(23, 4, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 5)


class Lazy(Samples):
    """The same samples one by one, as a mapping of inputs."""

    def __len__(self):
        return len(TENSORS)

    def __getitem__(self, index):
        inputs, target = TENSORS[index]
        return {"x": inputs, "twice": 2 * inputs}, int(target)

    def fingerprint(self):
        return "lazy"


def feed(reader, batch_size, num_workers=0):
    return Feed(reader, BatchSize(batch_size, torch.device("cpu")), num_workers, pin_memory=False)


@settings(deadline=None, max_examples=30)
@given(batch_size=st.integers(1, 30), rank=st.integers(0, 2))
def test_batches_hold_each_chosen_sample_once_in_order(batch_size, rank):
    mine = np.arange(23)[rank::3]
    batches = list(feed(TensorReader(TENSORS), batch_size).batches(mine))
    assert [len(batch.indices) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert np.array_equal(np.concatenate([batch.indices for batch in batches]), mine)
    assert torch.equal(torch.cat([batch.data[0] for batch in batches]), TENSORS.inputs[mine])
    assert torch.equal(torch.cat([batch.data[1] for batch in batches]), TENSORS.targets[mine])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_on_disk_are_collated_as_torch_does(num_workers):
    indices = np.array([3, 1, 22, 22, 0])
    batches = list(feed(ItemReader(Lazy()), 3, num_workers).batches(indices))
    for batch, part in zip(batches, ([3, 1, 22], [22, 0]), strict=True):
        (inputs, targets), (expected_inputs, expected_targets) = batch.data, default_collate([Lazy()[i] for i in part])
        assert batch.indices.tolist() == part
        assert inputs.keys() == expected_inputs.keys()
        assert all(torch.equal(inputs[key], expected_inputs[key]) for key in inputs)
        assert torch.equal(targets, expected_targets)


def test_a_batch_may_be_written_into():
    before = TENSORS.inputs.clone()
    for batch in feed(TensorReader(TENSORS), 5).batches(np.arange(23)):
        batch.data[0].zero_()
    assert torch.equal(TENSORS.inputs, before)


def test_the_size_may_change_while_batches_are_read():
    size = BatchSize(8, torch.device("cpu"))
    seen = []
    for batch in Feed(TensorReader(TENSORS), size, 0, pin_memory=False).batches(np.arange(23)):
        seen.append(batch.indices.tolist())
        if len(seen) == 1:
            size.halve(8)
    assert [index for batch in seen for index in batch] == list(range(23))
    assert set(map(len, seen[1:-1])) == {4}


class Pinnable(torch.Tensor):
    """Says that it lies in pinned memory, of which there is none without a GPU."""

    pinned = False

    def pin_memory(self):
        self.pinned = True
        return self


@pytest.mark.parametrize("pin", [True, False])
def test_texts_of_different_length_come_from_a_store_in_pinned_memory(pin):
    class Texts(Lazy):
        def collate(self, items):
            rows = torch.stack(items).as_subclass(Pinnable)
            return ModelInputs({"input_ids": rows}, {"truncated": rows[:, 0]}), rows[:, 1]

    class Rows:
        def item(self, row):
            return TENSORS.inputs[row]

    inputs, targets = StoreReader(Texts(), Rows(), np.arange(23), None, pin).read(np.array([3, 1]))
    assert torch.equal(inputs["input_ids"], TENSORS.inputs[[3, 1]])
    assert [part.pinned for part in (inputs["input_ids"], inputs.columns["truncated"], targets)] == [pin] * 3
