"""The command `fusion-eval`: compose, evaluate, return the objective."""

from __future__ import annotations

import sys
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import hydra
import hydra._internal.hydra
import hydra._internal.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fusion_eval.command import ending_well
from fusion_eval.errors import ConfigError
from fusion_eval.evaluation import evaluate
from fusion_eval.help import help_text
from fusion_eval.run_loader import RunLoader
from fusion_eval.selection import on_selection_split
from fusion_eval.sweeper import conclude_sweep, run_or_record

__all__ = ["main"]


def main() -> None:
    """The console script."""
    hydra._internal.utils.run_and_report = lambda func: func()  # it prints errors and exits; here that is `ending_well`
    hydra._internal.hydra.ConfigLoaderImpl = RunLoader  # type: ignore[attr-defined]
    with ending_well("fusion-eval", HydraException, OmegaConfBaseException):
        if sys.argv[1:] in (["--help"], ["-h"]):
            print(help_text())
            return
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without "±" must not cost the run
        try:
            _job()
        except KeyboardInterrupt:
            sys.exit("fusion-eval: interrupted; what was finished is in the run directory")
        finally:
            complete = conclude_sweep()
        if not complete:
            sys.exit(1)


@hydra.main(config_path="pkg://fusion_eval.conf", config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    """One evaluation, or, with `-m`, one job of a sweep; the returned number is what a sweeper optimises."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return run_or_record(partial(evaluate, sweep=True), on_selection_split(cfg), directory)
    with ending_well("fusion-eval"):  # here, as Hydra has a line of its own to say about a job that raises
        if cfg.select_on is not None:
            raise ConfigError(f"select_on={cfg.select_on} chooses among the jobs of a sweep: add -m, or say split=...")
        if cfg.racing.get("_target_") is not None:
            raise ConfigError("racing=on compares the jobs of a sweep: add -m, or leave racing off")
        return evaluate(cfg, directory)
