"""What a merged model is measured against: the base on every task, and each expert on its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fusion_eval.engine import Runner
from fusion_eval.merging import Base, Expert
from fusion_eval.models import ModelPool
from fusion_eval.report import References, TaskResult
from fusion_eval.taskpool.pool import TaskPool

__all__ = ["evaluate_references"]


def evaluate_references(
    pool: TaskPool, models: ModelPool, runner: Runner | None = None, tasks: Iterable[str] | None = None
) -> References:
    """Evaluate base and experts, each model once however often it was asked for in this process.

    Args:
        pool: The tasks.
        models: Base and experts. A task whose name (or head) is no expert's has no expert reference.
        runner: As for `TaskPool.evaluate`.
        tasks: Only these; None: all.

    Raises:
        FusionEvalError: if a checkpoint cannot be read or does not fit a task.
    """
    pool = pool if tasks is None else pool.select(tasks)
    runner = replace(runner or Runner(), bootstrap=0)  # only the primary metric is compared, sample by sample
    base = pool.evaluate(models.merge(Base()), runner, label="base").results
    experts: dict[str, TaskResult] = {}
    for name, task in pool.tasks.items():
        expert = task.model_key(name)
        if expert in models.experts:
            alone = pool.select([name]).evaluate(models.merge(Expert(expert)), runner, label="expert")
            experts[name] = alone.results[name]
    return References(base, experts)
