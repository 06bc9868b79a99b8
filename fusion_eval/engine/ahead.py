"""What is known of samples for models whose turn has not come yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from fusion_eval.engine.sample_memory import SampleRows

__all__ = ["RowsAhead", "process_ahead"]


class RowsAhead:
    """Rows of samples by all that they depend on, each until it is taken.

    Args:
        limit: Bytes that are kept at most; what was put first goes first, and is evaluated again in its turn.

    Example:
        >>> import numpy as np
        >>> ahead, rows = RowsAhead(limit=100), SampleRows(np.arange(8), {"loss": np.zeros(8)})
        >>> ahead.put("first", rows), ahead.put("second", rows)
        (None, None)
        >>> "first" in ahead, ahead.take("second") is rows, "second" in ahead
        (False, True, False)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[Hashable, SampleRows] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    def put(self, key: Hashable, rows: SampleRows) -> None:
        """Keep rows."""
        self._rows[key] = rows
        while sum(map(_size, self._rows.values())) > self._limit:
            self._rows.popitem(last=False)

    def take(self, key: Hashable) -> SampleRows | None:
        """The rows under `key`, which are not kept any longer; None if there are none."""
        return self._rows.pop(key, None)


process_ahead = RowsAhead(limit=10**9)
"""Of this process."""


def _size(rows: SampleRows) -> int:
    return sum(column.nbytes for column in rows.columns.values())
