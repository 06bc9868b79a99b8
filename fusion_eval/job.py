"""What is left of a job once its model is merged: to evaluate it on all tasks, and to write the report meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fusion_eval.config import recorded
from fusion_eval.errors import FusionEvalError
from fusion_eval.lookahead import models_to_come
from fusion_eval.reuse import references_once

if TYPE_CHECKING:
    from fusion_eval.data import DataSource
    from fusion_eval.data.overlap import Overlap
    from fusion_eval.engine import SampleMemory
    from fusion_eval.report import Aggregates, References, ReportWriter

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """A merged model, and what it is evaluated with.

    Args:
        cfg: The config.
        directory: Of the run.
        pool: The tasks.
        models: Base and experts.
        model: The merged model.
        runner: Runs the tasks.
        memory: What a race has found out about samples.
    """

    cfg: DictConfig
    directory: Path
    pool: Any
    models: Any
    model: Any
    runner: Any
    memory: SampleMemory | None

    def run(self, add: Callable[[str, Any], Any]) -> References:
        """Evaluate the model, handing over each task's outcome, then base and experts."""
        from fusion_eval.report import References, Report, TaskResult
        from fusion_eval.taskpool import TaskPool

        cfg, pool, models, runner = self.cfg, self.pool, self.models, self.runner
        kept: dict[str, Any] = {} if self.memory is None else {"memory": self.memory}
        if isinstance(pool, TaskPool) and cfg.racing.get("_target_") is None:
            kept["coming"] = models_to_come(cfg, models)
        report = pool.evaluate(self.model, runner, on_error=cfg.on_error, on_result=add, label="merged", **kept)
        if isinstance(report, Report):
            return references_once(pool, models, runner, report) if cfg.references and report else References()
        for name, metrics in report.items():
            add(name, TaskResult(metrics, {}, primary=next(iter(metrics)), count=0, seconds=0.0))
        return References()

    def run_and_write(
        self, writer: ReportWriter, messages: Sequence[str], others: Mapping[str, Mapping[str, DataSource]]
    ) -> tuple[References, Aggregates]:
        """Evaluate and write the report, which holds what was finished if something goes wrong; print and log it.

        Args:
            writer: Of the report.
            messages: Warnings so far.
            others: Where evaluated samples are searched.

        Raises:
            FusionEvalError: A task or a reference failed.
        """
        from fusion_eval.report import References, TaskFailure, aggregate, print_report
        from fusion_eval.report.truncation import truncation_warnings

        references, overlaps, stopped, warnings = References(), {}, None, list(messages)
        try:
            references = self.run(writer.add)
            overlaps = _scan(self.pool, others, warnings)
        except BaseException as error:
            stopped = TaskFailure.from_exception(error)
            raise
        finally:
            report = writer.report
            missing = () if stopped is None else tuple(getattr(self.pool, "tasks", ()))  # else each has an outcome
            aggregates = aggregate(report, references, tasks=missing, seed=self.cfg.seed)
            warnings += [f"no reference: {name}: {failure.message}" for name, failure in references.failures.items()]
            warnings += truncation_warnings(report.results)
            failures = {**report.failures, **references.failures}
            complete = stopped is None and not failures
            writer.finish(
                references,
                aggregates,
                warnings,
                "complete" if complete else "partial" if report else "failed",
                stopped,
                overlaps,
            )
            if self.runner.loggers:
                from fusion_eval.engine.loggers import log_run

                log_run(self.runner.loggers, recorded(self.cfg), report, aggregates, complete)
            print_report(report, references, aggregates)
            print(self.directory / "report.json")
        if failures:
            named = (f"{name}: {failure.error}: {failure.message}" for name, failure in failures.items())
            raise FusionEvalError(f"{len(failures)} failed: {'; '.join(named)}")
        return references, aggregates


def _scan(
    pool: Any, others: Mapping[str, Mapping[str, DataSource]], warnings: list[str]
) -> dict[str, dict[str, Overlap]]:
    """What evaluated samples and other data share, said on the screen and added to the warnings."""
    from fusion_eval.data.overlap import describe_overlaps, scan_overlaps

    overlaps = scan_overlaps({name: pool.tasks[name].data for name in others}, others)
    for sentence in describe_overlaps(overlaps):
        warnings.append(sentence)
        print(f"fusion-eval: warning: {sentence}", file=sys.stderr)
    return overlaps
