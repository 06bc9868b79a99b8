"""How many inputs did not fit into the context of the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusion_eval.report.record import TaskResult

__all__ = ["count_truncated", "truncation_warnings"]


def count_truncated(results: Mapping[str, TaskResult]) -> dict[str, int]:
    """Samples whose input was cut, of each task that says so in a column `truncated`.

    Example:
        >>> samples = {"truncated": np.array([True, False])}
        >>> count_truncated({"rte": TaskResult({"accuracy": 0.5}, {}, "accuracy", 2, 1.0, samples)})
        {'rte': 1}
    """
    columns = {task: result.samples.get("truncated") for task, result in results.items()}
    return {task: int(np.count_nonzero(column)) for task, column in columns.items() if column is not None}


def truncation_warnings(results: Mapping[str, TaskResult]) -> list[str]:
    """What there is to say of tasks with inputs that were cut."""
    return [
        f"{task}: {count} of {results[task].count} inputs were longer than the context and were cut (column truncated)"
        for task, count in count_truncated(results).items()
        if count
    ]
