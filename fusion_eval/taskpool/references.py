"""What a merged model is measured against: the base on every task, and each expert on its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

from fusion_eval.engine import Runner
from fusion_eval.merging import Base, Expert, MergingMethod
from fusion_eval.models import ModelPool
from fusion_eval.report import References, TaskFailure, TaskResult
from fusion_eval.taskpool.lm_eval import LMEvalTaskPool
from fusion_eval.taskpool.pool import TaskPool

__all__ = ["evaluate_references"]


def evaluate_references(
    pool: TaskPool | LMEvalTaskPool,
    models: ModelPool,
    runner: Runner | None = None,
    tasks: Iterable[str] | None = None,
) -> References:
    """Evaluate base and experts, each model once however often it was asked for in this process.

    One that fails (its checkpoint is missing, say) is recorded in `failures`; the others are evaluated all the same.

    Args:
        pool: The tasks.
        models: Base and experts. A task whose name (or head) is no expert's has no expert reference.
        runner: As for `TaskPool.evaluate`.
        tasks: Only these; None: all.
    """
    tasks = list(pool.tasks if tasks is None else tasks)
    pool = pool.select(tasks)
    runner = replace(runner or Runner(), bootstrap=0)  # only the primary metric is compared, sample by sample
    failures: dict[str, TaskFailure] = {}

    def evaluate(method: MergingMethod, names: Collection[str], label: str) -> dict[str, TaskResult]:
        try:
            report = pool.select(names).evaluate(models.merge(method), runner, on_error="record", label=label)
        except Exception as error:
            failures[f"{label} on {', '.join(names)}"] = TaskFailure.from_exception(error)
            return {}
        failures.update({f"{label} on {name}": failure for name, failure in report.failures.items()})
        return report.results

    base = evaluate(Base(), tasks, "base")
    tasks_of: defaultdict[str, list[str]] = defaultdict(list)
    for name in tasks:
        tasks_of[pool.expert_of(name)].append(name)
    experts = {
        expert: evaluate(Expert(expert), names, "expert")
        for expert, names in tasks_of.items()
        if expert in models.experts
    }
    found = {name: result for results in experts.values() for name, result in results.items()}
    return References(base, {name: found[name] for name in tasks if name in found}, failures)
