"""What `fusion-eval` does with a composed config: build, audit, merge, evaluate, write."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fusion_eval.again import tell_again, warn
from fusion_eval.answers import Answer, remember
from fusion_eval.command import is_first_process
from fusion_eval.config import build, recorded
from fusion_eval.errors import ConfigError, FusionEvalError
from fusion_eval.importing import uncollected_imports
from fusion_eval.job import Job
from fusion_eval.lookahead import merged_ahead
from fusion_eval.reuse import build_once, runner_once

if TYPE_CHECKING:
    from fusion_eval.data import DataSource
    from fusion_eval.engine import SampleMemory
    from fusion_eval.racing import Racing
    from fusion_eval.report import ReportWriter

__all__ = ["evaluate", "refuse_objective"]

_CHOICES = {
    "audit": (True, False, "only"),
    "on_error": ("raise", "record"),
    "selected_on": (None, "none", "val", "test", "oracle"),
}


def evaluate(cfg: DictConfig, directory: Path, sweep: bool = False) -> float | None:
    """Evaluate what a composed config describes and leave report.json, .md and .html and samples/ in `directory`.

    Args:
        cfg: The config.
        directory: Of the run.
        sweep: Whether more jobs are to come in this process, for which something may be kept.

    Returns:
        The objective; None where the report has none, where only an audit was asked for, and on the ranks of a
        distributed run that do not write.

    Raises:
        FusionEvalError: the config is wrong, the models cannot be merged, or a task failed; what was finished is on
            disk.
    """
    told = tell_again(cfg, directory)
    if told is not None:
        return told.objective
    if sweep and is_first_process():
        (directory / "report.json").unlink(missing_ok=True)  # of an earlier sweep in the same place
    _check_choices(cfg)
    if sweep:
        from fusion_eval.merging.memory import process_memory

        process_memory.limit = int((cfg.memory_gb or 0) * 1e9)
    return _evaluate(cfg, directory)


def _evaluate(cfg: DictConfig, directory: Path) -> float | None:
    """As `evaluate`, of a job of which nothing is known."""
    began = time.time()
    pool, models, method, runner = _built(cfg)
    if cfg.audit == "only":
        _print_audit(models, method)
        return None
    findings = _audit(models, method, runner) if cfg.audit and getattr(method, "merges", False) else ()
    others, racing = _other_data(cfg, pool, method), _racing(cfg, pool)
    model = _merge(cfg, models, method, runner.is_global_zero)
    race, memory = _race(cfg, directory, racing, pool, model, runner)
    dropped = race is not None and race["dropped"]
    job = Job(cfg, directory, pool, models, model, runner, memory)
    if not runner.is_global_zero:
        if not dropped:
            with suppress(FusionEvalError):  # rank 0 raises the same one, and reports it
                job.run(lambda name, outcome: None)
        return None

    from fusion_eval.report import ReportWriter, objective, provenance

    writer = ReportWriter(directory, provenance(recorded(cfg)), cfg.selected_on, model.record, race)
    messages = [message for _, message in findings]
    if race is not None and dropped:
        return _write_dropped(writer, messages, race)
    references, aggregates = job.run_and_write(writer, messages, others)
    value = objective(writer.report, aggregates, cfg.objective)
    if not cfg.save_merged and racing is None and not others:
        remember(
            Answer(recorded(cfg), writer.report.results, references, findings, model.record, writer.digest, value),
            *(cfg, pool, models, method, runner, began),
        )
    return value


def _built(cfg: DictConfig) -> tuple[Any, Any, Any, Any]:
    """Task pool, model pool, merging method and runner, for which the packages are imported."""
    with uncollected_imports():
        pool, models = _pool(cfg), build_once(cfg.modelpool, "modelpool")
        return pool, models, build(cfg.model, "model"), runner_once(cfg.runner)


def _write_dropped(writer: ReportWriter, messages: Sequence[str], race: Mapping[str, Any]) -> float:
    """Report that a merge lost its race: where it was stopped, and the objective as far as it is known."""
    from fusion_eval.report import Aggregates, References
    from fusion_eval.report.race_line import race_result

    writer.finish(References(), Aggregates(), messages, "dropped")
    print(f"dropped: {race_result(race)}")
    return float(race["estimate"])


def _pool(cfg: DictConfig) -> Any:
    """The task pool, which has the objective, on another split than its tasks name if the config does."""
    pool = build_once(cfg.taskpool, "taskpool")
    refuse_objective(cfg, pool)
    if cfg.split is None:
        return pool

    from fusion_eval.selection import tasks_on_split
    from fusion_eval.taskpool import TaskPool

    if not isinstance(pool, TaskPool):
        raise ConfigError(f"split={cfg.split}: {type(pool).__name__} has no tasks with splits")
    return TaskPool(tasks_on_split(pool.tasks, cfg.split, other=cfg.select_on is not None))


def refuse_objective(cfg: DictConfig, pool: Any) -> None:
    """Refuse an objective that the pool's reports will not have, as far as the pool tells before it runs.

    Raises:
        ConfigError: See `check_objective`.
    """
    if cfg.objective is None:
        return

    from fusion_eval.report import check_objective
    from fusion_eval.taskpool import TaskPool

    if isinstance(pool, TaskPool):
        metrics = {name: list(task.metrics) for name, task in pool.tasks.items()}
        check_objective(str(cfg.objective), metrics, references=cfg.references)


def _other_data(cfg: DictConfig, pool: Any, method: Any) -> Mapping[str, Mapping[str, DataSource]]:
    """Where evaluated samples are searched; what a sweep with `select_on` chooses does it, and not each of its jobs."""
    if not cfg.overlap or cfg.select_on is not None:
        return {}

    from fusion_eval.selection import other_data
    from fusion_eval.taskpool import TaskPool

    if not isinstance(pool, TaskPool):
        raise ConfigError(f"overlap={cfg.overlap}: {type(pool).__name__} has no tasks with splits")
    splits = [] if cfg.overlap is True else list(cfg.overlap)
    return other_data(pool.tasks, splits, getattr(method, "calibration", None))


def _audit(models: Any, method: Any, runner: Any) -> tuple[tuple[str, str], ...]:
    """Refuse what cannot be merged, show what is doubtful, and return severity and message of all there is to say."""
    audit = models.audit(method)
    audit.raise_for_errors()
    findings = tuple((finding.severity, finding.message) for finding in audit.findings)
    if runner.is_global_zero:
        warn(findings)
    return findings


def _print_audit(models: Any, method: Any) -> None:
    """Show what the audit finds; errors make the command fail."""
    from fusion_eval.report.audit_table import audit_verdict, print_audit

    audit = models.audit(method)
    print_audit(audit, {"base": models.base, **models.experts})
    if audit.of("error"):
        raise FusionEvalError(audit_verdict(audit))


def _merge(cfg: DictConfig, models: Any, method: Any, first: bool) -> Any:
    """The merge; one that was made for an earlier job of the sweep will do, if it is not to be saved."""
    early = None if cfg.save_merged else merged_ahead(cfg, models)
    return early or models.merge(method, cfg.save_merged if first else None, progress=cfg.progress and first)


def _racing(cfg: DictConfig, pool: Any) -> Racing | None:
    """How merges race, if they do; refused, before anything is merged, where they cannot."""
    if cfg.racing.get("_target_") is None:
        return None

    from fusion_eval.taskpool import TaskPool

    if not isinstance(pool, TaskPool):
        raise ConfigError(f"racing=on: {type(pool).__name__} has no tasks with samples to race on")
    if cfg.objective is not None and not str(cfg.objective).startswith("mean."):
        raise ConfigError(f"racing=on compares means over tasks, so it cannot be had with objective={cfg.objective}")
    racing: Racing = build(cfg.racing, "racing")
    return racing


def _race(
    cfg: DictConfig, directory: Path, racing: Racing | None, pool: Any, model: Any, runner: Any
) -> tuple[dict[str, Any] | None, SampleMemory | None]:
    """Race the merge against the best one of the sweep so far: how it ended, and what is known of the samples.

    Nothing of either without racing, and for the first merge.
    """
    if racing is None:
        return None, None

    from fusion_eval.engine import SampleMemory
    from fusion_eval.racing import find_opponent

    best = find_opponent(directory, recorded(cfg))
    if best is None or set(best.scores) != set(pool.tasks):
        return None, None
    for task, scores in best.scores.items():
        if cfg.objective not in (None, f"mean.{scores.metric}"):
            raise ConfigError(
                f"racing=on compares {scores.metric}, the primary metric of task {task!r}, which is not what "
                f"objective={cfg.objective} asks for: put that first among the metrics, or leave racing off"
            )
    memory = SampleMemory()
    verdict = racing.run(pool.tasks, model, runner, best.scores, best.finished, memory)
    return {"against": best.name, "estimate": best.mean + verdict.behind, **verdict.as_dict()}, memory


def _check_choices(cfg: DictConfig) -> None:
    for key, choices in _CHOICES.items():
        if cfg[key] not in choices:
            raise ConfigError(f"{key}: expected {', '.join(map(str, choices))}; found {cfg[key]!r}")
