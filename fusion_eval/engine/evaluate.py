"""One pass over a task, from the trainer to the result: with what it imports, the code that decides the numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import lightning.pytorch as pl
import torch
from torchmetrics import Metric

from fusion_eval.engine.estimate import estimate_metrics
from fusion_eval.engine.module import TaskModule
from fusion_eval.errors import TaskError
from fusion_eval.report import TaskResult
from fusion_eval.tasks import Task

__all__ = ["evaluate"]


def evaluate(
    trainer: pl.Trainer, task: Task, module: TaskModule, fingerprints: dict[str, str], bootstrap: int, seed: int
) -> TaskResult:
    """Run a task, exactly.

    Args:
        trainer: Device, precision and processes.
        task: The task.
        module: The task with model and samples.
        fingerprints: Of weights, head and data, for the record.
        bootstrap: Resamples behind the standard error of a metric that is no mean over samples.
        seed: Of the bootstrap, and of models that draw random numbers.

    Raises:
        FusionEvalError: the data, the model's output or a metric is not what it should be.
    """
    started = time.perf_counter()
    with _seeded(seed, trainer.strategy.root_device), module.placed(trainer):
        trainer.test(module, verbose=False)
    count = len(module.indices)
    if module.evaluated != count:
        raise TaskError(f"{count} samples should have been evaluated exactly once, Lightning ran others")
    resamples = bootstrap if trainer.is_global_zero else 0  # one rank reports
    metrics, errors = estimate_metrics(
        task, module.metrics, module.values, module.columns, module.updates, resamples, seed
    )
    primary = next((name for name, metric in module.metrics.items() if _more_is_better(metric)), task.primary)
    return TaskResult(
        metrics=metrics,
        standard_errors=errors,
        primary=primary,
        count=count,
        seconds=time.perf_counter() - started,
        samples=module.columns,
        scores=task.sample_values(module.metrics[primary], module.columns),
        fingerprints=fingerprints,
        higher_is_better=_more_is_better(module.metrics[primary]),
        evaluated_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _more_is_better(metric: Metric) -> bool:
    return metric.higher_is_better is not False


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng():
        if device.type == "cpu":  # `torch.manual_seed` would leave word for CUDA, with a stack trace
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield
