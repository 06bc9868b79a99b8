"""What passes over a part of a task's samples leave for a pass over more of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["SampleMemory", "SampleRows"]


@dataclass(frozen=True)
class SampleRows:
    """What is known of some samples of a task.

    Attributes:
        indices: Shape `(n,)`: which samples.
        columns: Arrays of shape `(n, ...)`: what the task kept of each, and what its metrics were given.
    """

    indices: np.ndarray
    columns: Mapping[str, np.ndarray]

    def select(self, chosen: np.ndarray) -> SampleRows:
        """The rows that a mask or indices of shape `(m,)` choose."""
        return SampleRows(self.indices[chosen], {name: column[chosen] for name, column in self.columns.items()})

    def joined(self, other: SampleRows) -> SampleRows:
        """The rows of both, in the order of the samples."""
        indices = np.concatenate([self.indices, other.indices])
        columns = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        return SampleRows(indices, columns).select(np.argsort(indices, kind="stable"))


class SampleMemory:
    """Rows of samples by task, for the weights, head and data that they came from.

    Example:
        >>> memory = SampleMemory()
        >>> rows = SampleRows(np.array([2, 5, 7]), {"loss": np.array([0.1, 0.2, 0.3])})
        >>> memory.keep("mnist", {"weights": "a"}, rows)
        >>> memory.recall("mnist", {"weights": "a"}, np.array([1, 2, 7, 9]), unknown=1).indices
        array([2, 7])
        >>> memory.recall("mnist", {"weights": "b"}, np.array([1, 2, 7, 9]), unknown=1) is None
        True
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Mapping[str, str], SampleRows]] = {}

    def keep(self, task: str, fingerprints: Mapping[str, str], rows: SampleRows) -> None:
        """Remember the rows of a pass instead of those of the passes before, which it contains.

        Args:
            task: Its name.
            fingerprints: Of weights, head and data.
            rows: Of all samples that the pass was about.
        """
        self._rows[task] = dict(fingerprints), rows

    def recall(
        self, task: str, fingerprints: Mapping[str, str], indices: np.ndarray, unknown: int
    ) -> SampleRows | None:
        """What is known of some samples.

        Args:
            task: Its name.
            fingerprints: Of weights, head and data.
            indices: Shape `(n,)`: which samples are to be evaluated.
            unknown: So many of them are left to be evaluated in any case: each process needs one.

        Returns:
            None if nothing is known, or what is known comes from other weights, another head or other data.
        """
        of, rows = self._rows.get(task, ({}, None))
        if rows is None or of != fingerprints:
            return None
        known = np.flatnonzero(np.isin(rows.indices, indices))[: len(indices) - unknown]
        return rows.select(known) if len(known) else None
