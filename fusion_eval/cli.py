"""The command `fusion-eval`: compose, evaluate, return the objective."""

from __future__ import annotations

import sys
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from fusion_eval.errors import ConfigError, FusionEvalError
from fusion_eval.evaluation import evaluate
from fusion_eval.help import help_text
from fusion_eval.selection import on_selection_split
from fusion_eval.sweeper import conclude_sweep, require_maximising, run_or_record

__all__ = ["main"]


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
    finally:
        complete = conclude_sweep()
    if not complete:
        sys.exit(1)


@hydra.main(config_path="pkg://fusion_eval.conf", config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    """One evaluation, or, with `-m`, one job of a sweep; the returned number is what a sweeper optimises."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            require_maximising(HydraConfig.get().sweeper)
            return run_or_record(partial(evaluate, sweep=True), on_selection_split(cfg), directory)
        if cfg.select_on is not None:
            raise ConfigError(f"select_on={cfg.select_on} chooses among the jobs of a sweep: add -m, or say split=...")
        if cfg.racing.get("_target_") is not None:
            raise ConfigError("racing=on compares the jobs of a sweep: add -m, or leave racing off")
        return evaluate(cfg, directory)
    except FusionEvalError as error:
        raise CompactHydraException(f"fusion-eval: error: {error}") from error
