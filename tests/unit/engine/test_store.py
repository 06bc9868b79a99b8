from __future__ import annotations

from fusion_eval.engine.store import ResultStore
from fusion_eval.report import TaskResult


def test_a_store_knows_what_was_put_under_a_key_and_nothing_else():
    store, other = ResultStore(), ResultStore()
    result = TaskResult({"accuracy": 1.0}, {}, "accuracy", count=3, seconds=0.1)
    assert store.get("a") is None
    store.put("a", result)
    assert store.get("a") is result
    assert store.get("b") is None
    assert other.get("a") is None
