from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.engine.shard import interleave, select


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
