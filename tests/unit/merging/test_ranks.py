"""Order statistics: exact, whatever a sample says. The oracle is a sort by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusion_eval.merging.ranks import at_rank_of_rows, at_ranks, windows

COUNT = 300_000  # enough that only a part is selected from
RANKS = (0, 1, COUNT // 3, int(0.8 * COUNT), COUNT - 2, COUNT - 1)


def sorted_values(values: Tensor) -> np.ndarray:
    return np.sort(values.numpy())


def many(kind: str) -> Tensor:
    normal = torch.randn(COUNT, generator=torch.Generator().manual_seed(0))
    step = COUNT // 2**16
    return {
        "normal": normal,
        "double": normal.double() * 1e-60,  # smaller than any float32
        "equal": torch.ones(COUNT),
        "few": normal.round(),
        "infinite": normal.where(normal > -1, torch.inf).where(normal < 1, -torch.inf),
        "not a number": normal.where(normal < 0, torch.nan),
        "periodic": torch.where(torch.arange(COUNT) % step == 0, normal - 100, normal),  # the sample sees only these
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "double", "equal", "few", "infinite", "not a number", "periodic"])
def test_many_values_as_sorted(kind: str) -> None:
    values = many(kind)
    before = values.clone()
    np.testing.assert_array_equal(at_ranks(values, *RANKS), sorted_values(values)[list(RANKS)])
    torch.testing.assert_close(values, before, rtol=0, atol=0, equal_nan=True)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50), st.data())
def test_few_values_as_sorted(numbers: list[float], data: st.DataObject) -> None:
    values = torch.tensor(numbers)
    rank = data.draw(st.integers(0, len(numbers) - 1))
    np.testing.assert_array_equal(at_ranks(values, rank), sorted_values(values)[[rank]])


@pytest.mark.parametrize("threads", [1, 4])
def test_rows_of_pieces_of_two_dtypes_as_sorted(threads: int) -> None:
    single, double = many("normal"), many("normal").double() * 1.0000001
    rows = [[single, double], [double, single * 3]]

    def read(piece: int) -> list[Tensor]:
        return [row[piece] for row in rows]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for rank in (0, COUNT, 2 * COUNT - 1):
            found = at_rank_of_rows(read, range(2), lambda: [windows(row) for row in rows], 2 * COUNT, rank)
            assert found == [float(np.sort(np.concatenate([part.numpy() for part in row]))[rank]) for row in rows]
    finally:
        torch.set_num_threads(before)


def test_windows_are_spread_evenly_over_all_parts() -> None:
    values = torch.arange(1_000_000)
    taken = windows([values[:5], values[5:300_100], values[300_100:300_110], values[300_110:]])
    starts = taken[:, 0]
    assert torch.equal(taken, starts.unsqueeze(1) + torch.arange(32))
    assert set(starts.diff().tolist()) == {1000}


def test_a_sample_that_tells_nothing_is_no_matter() -> None:
    values = many("normal").split(10)  # too small for any window
    sample = windows(values)
    assert len(sample) == 0
    found = at_rank_of_rows(lambda piece: [piece], values, lambda: [sample], COUNT, 1000)
    assert found == [float(sorted_values(torch.cat(values))[1000])]
