"""What a sweep is to this command: a directory, jobs that may fail without ending it, and a leaderboard at its end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fusion_eval.config import recorded
from fusion_eval.errors import ConfigError, FusionEvalError

__all__ = ["SweepDirectory", "conclude_sweep", "require_maximising", "run_or_record"]

_DIRECTORY = "FUSION_EVAL_SWEEP_DIR"


class SweepDirectory(Callback):
    """Tells this process, and those that it starts, where the sweep is, before its first job.

    Processes of a distributed run replay the sweep and must do so in the same place; and when the sweep ends, however
    it ends, its leaderboard is written there.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set the environment variable that conf/config.yaml takes `hydra.sweep.dir` from.

        What an earlier sweep in the same place selected is no longer.
        """
        from fusion_eval.selection import withdraw_selection

        directory = Path(config.hydra.sweep.dir).absolute()
        os.environ[_DIRECTORY] = str(directory)
        if is_first_process():
            withdraw_selection(directory)


def require_maximising(sweeper: DictConfig) -> None:
    """Refuse a sweeper that looks for the worst merge, as Optuna's does if it is not told otherwise.

    Raises:
        ConfigError: It minimises.
    """
    if str(sweeper.get("direction", "")).rpartition(".")[2] == "minimize":
        raise ConfigError(
            "hydra.sweeper.direction=minimize, the plugin's default, looks for the worst: give maximize, or take"
            " hydra/sweeper=search which does; where less of the objective is better, put a - in front of it"
        )


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
    if is_first_process():
        report.unlink(missing_ok=True)  # of an earlier sweep in the same place
    try:
        return job(cfg, directory)
    except Exception as error:
        print(f"fusion-eval: error: {error}", file=sys.stderr)
        if not isinstance(error, FusionEvalError):
            traceback.print_exc()
        if is_first_process() and not report.exists():
            _record(error, cfg, directory)
        return None


def conclude_sweep() -> bool:
    """Write and print the leaderboard of the sweep that ran in this process, if one did and a job got anywhere.

    Returns:
        Whether nothing failed.
    """
    directory = Path(os.environ.get(_DIRECTORY, "no sweep"))
    if not is_first_process() or not any(directory.rglob("report.json")):
        return True
    from fusion_eval.report_cli import write_and_print_leaderboard
    from fusion_eval.selection import conclude_selection

    try:
        incomplete = write_and_print_leaderboard([directory], directory)
        return conclude_selection(directory) and not incomplete
    except FusionEvalError as error:
        print(f"fusion-eval: no leaderboard: {error}", file=sys.stderr)
        return False


def is_first_process() -> bool:
    """Whether this is no child of a distributed run: those replay the command of the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _record(error: Exception, cfg: DictConfig, directory: Path) -> None:
    from fusion_eval.report import Aggregates, References, ReportWriter, TaskFailure, provenance

    try:
        config = recorded(cfg)
    except OmegaConfBaseException:  # an interpolation may be what failed
        config = recorded(cfg, resolve=False)
    writer = ReportWriter(directory, provenance(config), cfg.selected_on)
    writer.finish(References(), Aggregates(), [], "failed", TaskFailure.from_exception(error))
