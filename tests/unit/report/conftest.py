"""Runs on disk, as the command leaves them, without its minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusion_eval.report.aggregates import aggregate
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, TaskFailure, TaskResult
from fusion_eval.report.writer import ReportWriter

CLASSES = 5
SIZES = {"mnist": 400, "svhn": 250}
METRICS = {
    "accuracy": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "_partial_": True, "average": "micro"},
    "loss": {"_target_": "fusion_eval.tasks.CrossEntropy", "_partial_": True},
}

MakeRun = Callable[..., Path]


def result(task: str, accuracy: float, seed: int, data: str) -> TaskResult:
    """Of a model that is right on the easiest samples, with some luck; the samples are the same for all models."""
    n = SIZES[task]
    fixed, own = np.random.default_rng(sum(map(ord, task))), np.random.default_rng([seed, n])
    target, ease = fixed.integers(CLASSES, size=n), fixed.random(n)
    right = np.where(own.random(n) < 0.3, own.random(n), ease) < accuracy
    prediction = np.where(right, target, (target + 1 + own.integers(CLASSES - 1, size=n)) % CLASSES)
    confidence = own.uniform(0.2, 1.0, size=n).astype(np.float32)
    loss = np.where(right, -np.log(confidence), 2.0).astype(np.float32)
    columns = {"index": np.arange(n), "target": target, "prediction": prediction, "loss": loss}
    columns |= {"confidence": confidence, "rank": (~right).astype(np.int64)}
    values = {"accuracy": right.astype(float), "loss": loss.astype(float)}
    return TaskResult(
        metrics={name: float(value.mean()) for name, value in values.items()},
        standard_errors={name: float(value.std(ddof=1) / n**0.5) for name, value in values.items()},
        primary="accuracy",
        count=n,
        seconds=1.0,
        samples=columns,
        scores=right,
        fingerprints={"data": f"{task} {data}"},
    )


@pytest.fixture
def make_run(tmp_path) -> MakeRun:
    """`make_run(name, accuracy, **model)`: the directory of a finished run below `tmp_path`."""

    def make(
        name: str,
        accuracy: float,
        *,
        seed: int = 0,
        split: str = "test",
        selected_on: str | None = None,
        error: Exception | None = None,
        finish: bool = True,
        **model: object,
    ) -> Path:
        data = {"data": {"split": split}, "metrics": METRICS}
        config = {
            "model": {"_target_": "fusion_eval.merging.Ties", **model},
            "taskpool": {"tasks": dict.fromkeys(SIZES, data)},
            "runner": {"noise": name},
            "seed": 0,
        }
        writer = ReportWriter(tmp_path / name, provenance(config), selected_on)
        tasks = list(SIZES)[:1] if error else SIZES
        for task in tasks:
            writer.add(task, result(task, accuracy, seed, split))
        if finish:
            base, experts = ({task: result(task, share, 99, split) for task in tasks} for share in (0.3, 0.95))
            references = References(base, experts)
            aggregates = aggregate(writer.report, references, tasks=SIZES, resamples=50)
            failure = None if error is None else TaskFailure.from_exception(error)
            writer.finish(references, aggregates, [], "partial" if error else "complete", failure)
        return tmp_path / name

    return make
