"""What a sweep is to this command: a directory, jobs that may fail without ending it, and a leaderboard at its end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from hydra.utils import get_class
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fusion_eval.command import ending_well, is_first_process, writable_directory
from fusion_eval.config import build, recorded
from fusion_eval.errors import ConfigError, FusionEvalError
from fusion_eval.evaluation import refuse_objective
from fusion_eval.importing import uncollected_imports
from fusion_eval.lookahead import begin_job, expect_jobs
from fusion_eval.selection import on_selection_split
from fusion_eval.stamps import file_identity
from fusion_eval.sweep_loader import SweepLoader
from fusion_eval.sweep_progress import SweepProgress

__all__ = ["SweepDirectory", "conclude_sweep", "refuse_sweep", "run_or_record"]

_DIRECTORY = "FUSION_EVAL_SWEEP_DIR"

_progress: list[SweepProgress] = []
"""Of the sweep that this process started, if it did: processes of its own get the callback, but not this."""


class SweepDirectory(Callback):
    """Tells this process, and those that it starts, where the sweep is, before its first job.

    Processes of a distributed run replay the sweep and must do so in the same place; and when the sweep ends, however
    it ends, its leaderboard is written there. What no job could be right with is refused here, for all of them.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a single run: find out that its directory cannot be written before it has cost anything."""
        with ending_well("fusion-eval"):
            writable_directory(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set the environment variable that conf/config.yaml takes `hydra.sweep.dir` from, and have jobs composed fast.

        What an earlier sweep in the same place selected is no longer.
        """
        from fusion_eval.selection import withdraw_selection

        directory = Path(config.hydra.sweep.dir).absolute()
        with ending_well("fusion-eval"):
            refuse_sweep(config)
            writable_directory(directory, "hydra.sweep.dir")
        os.environ[_DIRECTORY] = str(directory)
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.config_loader = loader = SweepLoader(hydra.config_loader.get_search_path())
        jobs = list_jobs(config, loader)
        if jobs is not None and issubclass(get_class(config.hydra.launcher._target_), BasicLauncher):
            expect_jobs(partial(loader.load_sweep_config, config), jobs)
        if is_first_process():
            withdraw_selection(directory)
            if config.get("progress", True):
                _progress.append(SweepProgress(directory, count_jobs(config, jobs)))
                _progress[-1].start()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Jobs run in this process, so that is when to look at how far the sweep is."""
        if config.hydra.mode is RunMode.MULTIRUN:  # elsewhere jobs have no number
            begin_job(config.hydra.job.num)
        for progress in _progress:
            progress.here()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Tell how far the sweep is."""
        for progress in _progress:
            progress.look()


def list_jobs(config: DictConfig, loader: ConfigLoader) -> list[list[str]] | None:
    """The overrides of each job of a sweep, if its sweeper is Hydra's or ours; one that optimises does not know them.

    Args:
        config: Of the sweep.
        loader: Of the sweep.
    """
    options = dict(config.hydra.sweeper)
    kind = get_class(options.pop("_target_"))
    if not issubclass(kind, BasicSweeper):
        return None
    sweeper = kind(**options)
    sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
    arguments = [*sweeper._parse_config(), *config.hydra.overrides.task]
    try:
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        return [list(job) for batch in sweeper.split_arguments(overrides, None) for job in batch]
    except HydraException:  # the sweeper is about to refuse it, too
        return None


def count_jobs(config: DictConfig, jobs: list[list[str]] | None) -> int | None:
    """How many jobs a sweep has, as far as that is known: those of `list_jobs`, or of a sweeper with `n_trials`."""
    return config.hydra.sweeper.get("n_trials") if jobs is None else len(jobs)


def refuse_sweep(config: DictConfig) -> None:
    """Refuse a sweep, before its first job, for what its jobs have in common.

    Args:
        config: Of the sweep: that of a job, without what is swept.

    Raises:
        ConfigError: The sweeper minimises, as Optuna's does if it is not told otherwise; `select_on` goes with another
            setting that it excludes; or the objective is a number that the tasks do not have.
    """
    if str(config.hydra.sweeper.get("direction", "")).rpartition(".")[2] == "minimize":
        raise ConfigError(
            "hydra.sweeper.direction=minimize, the plugin's default, looks for the worst: give maximize, or take"
            " hydra/sweeper=search which does; where less of the objective is better, put a - in front of it"
        )
    on_selection_split(config)
    if config.objective is not None and not _sweeps_tasks(config):  # else each job looks for itself
        with uncollected_imports():
            pool = build(config.taskpool, "taskpool")
        refuse_objective(config, pool)


def _sweeps_tasks(config: DictConfig) -> bool:
    """Whether the jobs of a sweep may differ in their tasks."""
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = [override.input_line or "" for override in overrides if override.is_sweep_override()]
    return any("taskpool" in text for text in [*swept, str(config.hydra.sweeper)])


def run_or_record(job: Callable[[DictConfig, Path], float | None], cfg: DictConfig, directory: Path) -> float | None:
    """Run a job of a sweep; if it fails, leave a report that says why, so that the sweep goes on.

    Args:
        job: Evaluates what a config describes, and writes a report into a directory as soon as it can.
        cfg: The config.
        directory: Of the job.

    Returns:
        What the job returns; None if it failed, which to Optuna is a failed trial where NaN would end the sweep.
    """
    report = directory / "report.json"
    earlier = _written(report)
    try:
        return job(cfg, directory)
    except Exception as error:
        print(f"fusion-eval: error: {error}", file=sys.stderr)
        if not isinstance(error, FusionEvalError):
            traceback.print_exc()
        if is_first_process() and _written(report) in (None, earlier):
            _record(error, cfg, directory)
        return None


def _written(report: Path) -> str | None:
    """What tells whether a file is another one; None where there is none."""
    return file_identity(report) if report.exists() else None


def conclude_sweep() -> bool:
    """Write and print the leaderboard of the sweep that ran in this process, if one did and a job got anywhere.

    Returns:
        Whether nothing failed.
    """
    while _progress:
        _progress.pop().stop()
    try:
        return not is_first_process() or _conclude(Path(os.environ.get(_DIRECTORY, "no sweep")))
    finally:
        os.environ.pop(_DIRECTORY, None)  # what runs in this process after it, or is started by it, is no part of it


def _conclude(directory: Path) -> bool:
    if not any(directory.rglob("report.json")):
        return True
    from fusion_eval.report_cli import write_and_print_leaderboard
    from fusion_eval.selection import conclude_selection

    try:
        incomplete = write_and_print_leaderboard([directory], directory)
        return conclude_selection(directory) and not incomplete
    except FusionEvalError as error:
        print(f"fusion-eval: no leaderboard: {error}", file=sys.stderr)
        return False


def _record(error: Exception, cfg: DictConfig, directory: Path) -> None:
    from fusion_eval.report import Aggregates, References, ReportWriter, TaskFailure, provenance

    try:
        config = recorded(cfg)
    except OmegaConfBaseException:  # an interpolation may be what failed
        config = recorded(cfg, resolve=False)
    writer = ReportWriter(directory, provenance(config), cfg.selected_on)
    writer.finish(References(), Aggregates(), [], "failed", TaskFailure.from_exception(error))
