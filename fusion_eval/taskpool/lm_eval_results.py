"""What lm-evaluation-harness returns for a task, as a result of ours."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from fusion_eval.data.digest import digest_content
from fusion_eval.errors import TaskError
from fusion_eval.report import TaskResult

__all__ = ["task_result"]

_NO_FILTER = "none"
_AGREEMENT = 1e-9
"""How far a mean in float64 may be from another one of the same values."""


def task_result(
    name: str,
    results: Mapping[str, Any],
    cut: Collection[tuple[str, ...]],
    seconds: float,
    fingerprints: Mapping[str, str],
) -> TaskResult:
    """Read the results of one task.

    Metrics keep their names, with `@filter` where a filter other than "none" was before them. A row of the samples is
    a document: its number, the digests that the harness makes, the requests, the model's responses and the target as
    JSON, whether one of the requests was `truncated`, and the value of every metric: a number, or JSON.

    Args:
        name: Of the task.
        results: What `lm_eval.evaluator.evaluate` returned.
        cut: The texts of the requests that lost tokens: see `lm_eval_harness.wrap`.
        seconds: Wall time.
        fingerprints: Of weights and tokenizer; that of the data (prompts and targets) is added.

    Raises:
        TaskError: there is no document, or a metric is not finite.
    """
    logged: Sequence[Mapping[str, Any]] = results["samples"][name]
    if not logged:
        raise TaskError("lm_eval has evaluated no document")
    values, errors = _metrics(results["results"][name])
    samples = _samples(logged, cut)
    upwards = {metric: results["higher_is_better"][name].get(metric.partition("@")[0]) for metric in values}
    primary = next((metric for metric, up in upwards.items() if up), next(iter(values)))
    column = samples[primary]
    is_mean = column.dtype.kind in "bf" and abs(float(column.mean()) - values[primary]) <= _AGREEMENT
    return TaskResult(
        metrics=values,
        standard_errors=errors,
        primary=primary,
        count=len(samples["index"]),
        seconds=seconds,
        samples=samples,
        scores=column if is_mean else None,
        fingerprints={**fingerprints, "data": digest_content(zip(samples["requests"], samples["target"], strict=True))},
        higher_is_better=upwards[primary] is not False,
        evaluated_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _metrics(found: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Values and standard errors: "acc,none" and "acc_stderr,none" among the harness' keys."""
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in found.items():
        metric, comma, behind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if not np.isfinite(value):
            raise TaskError(f"{metric} is {value}: the model's outputs are not finite on this task")
        name = _named(metric, behind)
        values[name] = float(value)
        error = found.get(f"{metric}_stderr,{behind}")
        if isinstance(error, (int, float)) and np.isfinite(error):
            errors[name] = float(error)
    if not values:
        raise TaskError("lm_eval has computed no metric")
    return values, errors


def _samples(logged: Sequence[Mapping[str, Any]], cut: Collection[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """One row a document; the harness logs one a document and filter."""
    by_document: dict[int, dict[str, Any]] = {}
    for sample in sorted(logged, key=lambda sample: int(sample["doc_id"])):
        row = by_document.setdefault(
            int(sample["doc_id"]),
            {
                "document": _json(sample["doc"]),
                "target": _json(sample["target"]),
                "requests": _json(sample["arguments"]),
                "responses": _json(sample["resps"]),
                "truncated": any(_texts(request) in cut for request in sample["arguments"]),
                **{key: sample[key] for key in ("doc_hash", "prompt_hash", "target_hash")},
            },
        )
        row.update(_filtered(sample))
    rows = list(by_document.values())
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return {"index": np.array(list(by_document), dtype=np.int64), **columns}


def _filtered(sample: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a filter made of the responses, and the metrics behind it."""
    behind = sample["filter"]
    yield _named("answer", behind), _json(sample["filtered_resps"])
    for metric in sample["metrics"]:
        yield _named(metric, behind), sample[metric]


def _texts(request: Sequence[Any]) -> tuple[str, ...]:
    """The texts of a request, without the settings of a generation."""
    return tuple(part for part in request if isinstance(part, str))


def _named(metric: str, behind: str) -> str:
    return metric if behind == _NO_FILTER else f"{metric}@{behind}"


def _column(values: Sequence[Any]) -> np.ndarray:
    """Truth as it is, numbers as float64, texts as they are, anything else as JSON."""
    if all(isinstance(value, bool) for value in values):
        return np.array(values)
    if all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in values):
        return np.array(values, dtype=np.float64)
    return np.array([value if isinstance(value, str) else _json(value) for value in values], dtype=object)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
