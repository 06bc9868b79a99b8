"""Results that are already known, by what they depend on, so that nothing is evaluated twice."""

from __future__ import annotations

from collections.abc import Hashable

from fusion_eval.report import TaskResult

__all__ = ["ResultStore", "process_store"]


class ResultStore:
    """Task results in memory, keyed by all that they depend on."""

    def __init__(self) -> None:
        self._results: dict[Hashable, TaskResult] = {}

    def get(self, key: Hashable) -> TaskResult | None:
        """The result under `key`, or None."""
        return self._results.get(key)

    def put(self, key: Hashable, result: TaskResult) -> None:
        """Keep a result."""
        self._results[key] = result


process_store = ResultStore()
"""What this process has evaluated: the base and the experts of a sweep are run once, not once a job."""
