"""What is kept of each sample during a pass, in memory that is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Columns"]


class Columns:
    """Rows of batches, one after the other.

    A small tensor that stays behind from each batch would keep the memory of the large ones around it from being used
    again: a process would grow by all the data it has seen.

    Args:
        count: How many rows there is room for.

    Example:
        >>> columns = Columns(5)
        >>> columns.add({"loss": torch.tensor([0.1, 0.2]), "text": ["a", "b"]})
        >>> columns.add({"loss": torch.tensor([0.3]), "text": ["c"]})
        >>> columns.rows()["loss"], columns.rows()["text"]
        (tensor([0.1000, 0.2000, 0.3000]), array(['a', 'b', 'c'], dtype=object))
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._done = 0
        self._held: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._done

    def add(self, columns: Mapping[str, Tensor | list[str]]) -> None:
        """Copy the rows of a batch, for which there is room."""
        end = self._done + len(next(iter(columns.values())))
        for name, column in columns.items():
            if name not in self._held:
                self._held[name] = _room(self.count, column)
            self._held[name][self._done : end] = column
        self._done = end

    def rows(self) -> dict[str, Any]:
        """All rows so far: tensors, and arrays of strings."""
        return {name: held[: self._done] for name, held in self._held.items()}


def _room(count: int, column: Tensor | list[str]) -> Tensor | np.ndarray:
    if isinstance(column, list):
        return np.empty(count, dtype=object)
    return torch.empty((count, *column.shape[1:]), dtype=column.dtype, device=column.device)
