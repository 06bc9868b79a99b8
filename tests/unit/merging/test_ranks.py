"""Order statistics: exact, whatever a sample says. The oracle is a sort by numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusion_eval.merging.ranks import at_ranks, at_ranks_of_slices

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


def test_slices_of_two_dtypes_as_sorted() -> None:
    single, double = many("normal"), many("normal").double() * 1.0000001

    def slices(step: int) -> Iterator[Tensor]:
        yield from (single[::step], double[::step])

    expected = np.sort(np.concatenate([single.numpy(), double.numpy()]))
    assert at_ranks_of_slices(slices, 2 * COUNT, *RANKS) == expected[list(RANKS)].tolist()
