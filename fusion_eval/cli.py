"""The command `fusion-eval`: compose, build, evaluate, write, return the objective."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fusion_eval.config import build
from fusion_eval.errors import ConfigError, FusionEvalError
from fusion_eval.help import help_text

if TYPE_CHECKING:
    from fusion_eval.report import References

__all__ = ["evaluate", "main"]

_CHOICES = {"on_error": ("raise", "record"), "selected_on": (None, "none", "val", "test", "oracle")}


def main() -> None:
    """The console script."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(help_text())
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without "±" must not cost the run
    try:
        _job()
    except KeyboardInterrupt:
        sys.exit("fusion-eval: interrupted; what was finished is in the run directory")


@hydra.main(config_path="pkg://fusion_eval.conf", config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    """One evaluation, or, with `-m`, one job of a sweep; the returned number is what a sweeper optimises."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:  # a DDP child replays the sweep: it must do so in the same place
        os.environ["FUSION_EVAL_SWEEP_DIR"] = HydraConfig.get().sweep.dir
    try:
        return evaluate(cfg, Path(HydraConfig.get().runtime.output_dir))
    except FusionEvalError as error:
        raise CompactHydraException(f"fusion-eval: error: {error}") from error


def evaluate(cfg: DictConfig, directory: Path) -> float | None:
    """Evaluate what a composed config describes and write report.json, report.md and samples/ into `directory`.

    Returns:
        The objective; None where the report has none, and on the ranks of a distributed run that do not write.

    Raises:
        FusionEvalError: the config is wrong, or a task failed; what was finished is on disk.
    """
    _check_choices(cfg)
    pool, models = build(cfg.taskpool, "taskpool"), build(cfg.modelpool, "modelpool")
    method, runner = build(cfg.model, "model"), build(cfg.runner, "runner")
    model = models.merge(method)

    from fusion_eval.report import References, ReportWriter, aggregate, objective, print_report, provenance

    if not runner.is_global_zero:
        with suppress(FusionEvalError):  # rank 0 raises the same one, and reports it
            _run(cfg, pool, models, model, runner, lambda name, outcome: None)
        return None
    writer = ReportWriter(directory, provenance(_plain(cfg)), cfg.selected_on)
    references, finished = References(), False
    try:
        references = _run(cfg, pool, models, model, runner, writer.add)
        finished = True
    finally:
        report = writer.report
        aggregates = aggregate(report, references, tasks=tuple(getattr(pool, "tasks", report)), seed=cfg.seed)
        warnings = [f"no reference: {name}: {failure.message}" for name, failure in references.failures.items()]
        failures = {**report.failures, **references.failures}
        complete = finished and not failures
        writer.finish(references, aggregates, warnings, "complete" if complete else "partial" if report else "failed")
        print_report(report, references, aggregates)
        print(directory / "report.json")
    if failures:
        named = "; ".join(f"{name}: {failure.error}: {failure.message}" for name, failure in failures.items())
        raise FusionEvalError(f"{len(failures)} failed: {named}")
    return objective(report, aggregates, cfg.objective)


def _run(
    cfg: DictConfig, pool: Any, models: Any, model: Any, runner: Any, add: Callable[[str, Any], None]
) -> References:
    """Evaluate the model, handing over each task's outcome, then base and experts."""
    from fusion_eval.report import References, TaskResult
    from fusion_eval.taskpool import TaskPool, evaluate_references

    report = pool.evaluate(model, runner, on_error=cfg.on_error, on_result=add, label="merged")
    if isinstance(pool, TaskPool):
        return evaluate_references(pool, models, runner, tasks=report) if cfg.references and report else References()
    for name, metrics in report.items():
        add(name, TaskResult(metrics, {}, primary=next(iter(metrics)), count=0, seconds=0.0))
    return References()


def _check_choices(cfg: DictConfig) -> None:
    for key, choices in _CHOICES.items():
        if cfg[key] not in choices:
            raise ConfigError(f"{key}: expected {', '.join(map(str, choices))}; found {cfg[key]!r}")


def _plain(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)
