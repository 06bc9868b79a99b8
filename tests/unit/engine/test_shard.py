from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from fusion_eval.data import Samples, TensorSamples
from fusion_eval.engine.shard import interleave, loader, select

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


@given(n=st.integers(1, 200), world=st.integers(1, 20), width=st.none() | st.integers(0, 3))
def test_the_shards_of_any_world_size_give_back_the_whole_in_order(n, world, width):
    whole = np.random.default_rng(n).normal(size=n if width is None else (n, width))
    assert np.array_equal(interleave([whole[rank::world] for rank in range(world)]), whole)


@given(n=st.integers(0, 300), limit=st.none() | st.integers(1, 400), seed=st.integers(0, 2**32))
def test_a_selection_is_ascending_without_repeats_and_as_long_as_it_can_be(n, limit, seed):
    chosen = select(n, limit, seed)
    assert len(chosen) == (n if limit is None else min(n, limit))
    assert np.all(np.diff(chosen) > 0)
    assert len(chosen) == 0 or (chosen[0] >= 0 and chosen[-1] < n)
    assert np.array_equal(chosen, select(n, limit, seed))


def test_a_selection_is_random_and_every_sample_as_likely():
    counts = np.zeros(50)
    for seed in range(2000):
        counts[select(50, 10, seed)] += 1
    # 2000 draws at 1/5: mean 400, standard deviation 17.9; five of them on each side
    assert counts.min() > 310
    assert counts.max() < 490


@settings(deadline=None, max_examples=30)
@given(batch_size=st.integers(1, 30), rank=st.integers(0, 2))
def test_a_loader_gives_each_chosen_sample_once_in_order(batch_size, rank):
    mine = np.arange(23)[rank::3]
    batches = list(loader(TENSORS, mine, batch_size, num_workers=0, pin_memory=False))
    assert [len(targets) for _, targets in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), TENSORS.inputs[mine])
    assert torch.equal(torch.cat([targets for _, targets in batches]), TENSORS.targets[mine])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_on_disk_are_collated_as_torch_does(num_workers):
    indices = np.array([3, 1, 22, 22, 0])
    batches = list(loader(Lazy(), indices, 3, num_workers, pin_memory=False))
    expected = [default_collate([Lazy()[i] for i in part]) for part in ([3, 1, 22], [22, 0])]
    for (inputs, targets), (expected_inputs, expected_targets) in zip(batches, expected, strict=True):
        assert inputs.keys() == expected_inputs.keys()
        assert all(torch.equal(inputs[key], expected_inputs[key]) for key in inputs)
        assert torch.equal(targets, expected_targets)
