"""A Trainer that says nothing and logs nowhere: what is shown and logged is up to the runner."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger

from fusion_eval.allocator import keep_freed_memory
from fusion_eval.cpus import usable_cpus
from fusion_eval.errors import ConfigError

__all__ = ["gather_ranks", "make_trainer", "quiet"]


def make_trainer(make: Callable[..., Any] | None, callback: pl.Callback) -> tuple[pl.Trainer, list[Logger]]:
    """A Trainer, and the loggers that it is not going to use itself: see `fusion_eval.engine.loggers`.

    Args:
        make: Makes it; None: one for the CPU.
        callback: What it calls beside its own.

    Raises:
        ConfigError: it cannot be made, or something else is.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())  # torch does not know of a container's quota, beyond which it is throttled
    with quiet():
        try:
            made = (make or _cpu_trainer)()
        except Exception as error:  # Lightning raises many kinds: no such device, precision, strategy, ...
            raise ConfigError(f"trainer: {error}") from error
    if not isinstance(made, pl.Trainer):
        raise ConfigError(f"trainer: made {type(made).__name__}, expected a lightning.pytorch.Trainer")
    if made.strategy.root_device.type == "cpu":
        keep_freed_memory()
    made.callbacks.append(callback)  # type: ignore[attr-defined]
    loggers, made.loggers = list(made.loggers), []
    return made, loggers


def gather_ranks(trainer: pl.Trainer) -> None:
    """Connect the processes of a distributed run now, where someone else (torchrun, Slurm) has started them all.

    Lightning does it when the first task runs, but before that they must agree on what is known already.
    """
    strategy: Any = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    if environment is not None and not isinstance(environment, LightningEnvironment):
        strategy.setup_environment()


def _cpu_trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its advice on training, which does not apply here.

    A level is set where it is another one: that makes all loggers of a process forget theirs, which takes its time.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    loggers = [logger for logger in loggers if logger.level != logging.ERROR]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
