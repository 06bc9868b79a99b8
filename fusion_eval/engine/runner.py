"""Runs tasks with one reused, quiet Lightning Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger
from torch import nn

from fusion_eval.engine.evaluate import evaluate
from fusion_eval.engine.fingerprint import fingerprint_weights
from fusion_eval.engine.key import dependencies, process_key
from fusion_eval.engine.module import TaskModule
from fusion_eval.engine.prepare import prepare
from fusion_eval.engine.progress import TaskProgress
from fusion_eval.engine.shard import select
from fusion_eval.engine.store import DiskStore, process_store
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.report import TaskResult
from fusion_eval.tasks import Task

__all__ = ["Runner"]


@dataclass(frozen=True)
class Runner:
    """How tasks are run: device, precision and processes come with the Trainer, the rest is here.

    Args:
        trainer: Makes a `lightning.pytorch.Trainer`; in YAML one with `_partial_: true`. None: the CPU, in float32.
        batch_size: Samples a batch, on each device.
        num_workers: Processes that load data, on each device; 0 loads in the process itself.
        limit: At most so many samples a task, drawn at random with `seed`; None: all.
        seed: Of `limit`, of the bootstrap, and of models that draw random numbers.
        bootstrap: Resamples behind the standard error of a metric that is no mean over samples; 0: no such errors.
        progress: Whether to show on standard error what runs.
        store: Directory of results that are not evaluated again, shared with other processes and machines; None: only
            this process remembers.

    Raises:
        ConfigError: if a number is out of range.
    """

    trainer: Callable[..., pl.Trainer] | None = None
    batch_size: int = 128
    num_workers: int = 0
    limit: int | None = None
    seed: int = 0
    bootstrap: int = 100
    progress: bool = False
    store: str | None = None

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_workers": 0, "limit": 1, "seed": 0, "bootstrap": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if name == "limit" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ConfigError(f"{name}: expected an integer >= {minimum}, found {value!r}")

    @property
    def loggers(self) -> list[Logger]:
        """The Trainer's, which it does not use itself: see `fusion_eval.engine.loggers`."""
        return self._trainer_and_loggers[1]

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self._trainer.is_global_zero)

    def run(self, name: str, task: Task, model: nn.Module, label: str = "model") -> TaskResult:
        """Evaluate a model on one task.

        Args:
            name: Of the task.
            task: The task.
            model: Features or logits out. A task without a head of its own uses the one under its name in the model's
                mapping `heads`, where the model has one.
            label: What the progress display calls the model.

        Raises:
            FusionEvalError: the data, the model's output or a metric is not what it should be.
        """
        if isinstance(model, MergedModel):
            model.adapt(task.model_key(name))
        samples, head = prepare(name, task, model)
        indices = select(len(samples), self.limit, self.seed)
        processes = self._trainer.num_devices * self._trainer.num_nodes
        if len(indices) < processes:
            raise TaskError(f"{len(indices)} samples cannot be shared by {processes} processes")
        fingerprints = {
            "weights": fingerprint_weights(model),
            "head": "none" if head is None else fingerprint_weights(head),
            "data": samples.fingerprint(),
        }
        module = TaskModule(
            name,
            task,
            model,
            head,
            samples,
            indices,
            self.batch_size,
            self.num_workers,
            keep_updates=self.bootstrap > 0,
        )
        key = process_key(
            fingerprints, task, module, [part for part in (model, head) if part is not None], self._settings
        )
        known = None if key is None else process_store.get(key)
        if known is not None:
            return known
        what = f"{label} on {name}"
        run = partial(self._evaluate, what, task, module, fingerprints)
        store, depends_on = self._disk_store, None
        if store is not None:
            depends_on = dependencies(fingerprints, task, model, head, samples, indices, self._settings)
        if store is None or depends_on is None:
            result = run()
        else:
            self._gather_ranks()
            result = store.get_or_run(depends_on, run, what, leads=self.is_global_zero)
        if key is not None:
            process_store.put(key, result)
        return result

    def show(self, result: TaskResult) -> None:
        """Leave a line on standard error about what `run` has just evaluated, if `progress` is on."""
        if self.is_global_zero:
            self._progress.done(result)

    def _evaluate(self, what: str, task: Task, module: TaskModule, fingerprints: dict[str, str]) -> TaskResult:
        self._progress.announce(what)
        try:
            with _quiet():
                return evaluate(self._trainer, task, module, fingerprints, self.bootstrap, self.seed)
        except BaseException:
            del self.__dict__["_trainer_and_loggers"]  # it stopped half-way; the next task gets a fresh one
            raise

    def _gather_ranks(self) -> None:
        """Connect the processes of a distributed run now, where someone else (torchrun, Slurm) has started them all.

        Lightning does it when the first task runs, but before that they must agree on what is known already.
        """
        strategy: Any = self._trainer.strategy
        environment = getattr(strategy, "cluster_environment", None)
        if environment is not None and not isinstance(environment, LightningEnvironment):
            strategy.setup_environment()

    @property
    def _trainer(self) -> pl.Trainer:
        return self._trainer_and_loggers[0]

    @cached_property
    def _trainer_and_loggers(self) -> tuple[pl.Trainer, list[Logger]]:
        with _quiet():
            try:
                made: Any = (self.trainer or _quiet_cpu_trainer)()
            except Exception as error:  # Lightning raises many kinds: no such device, precision, strategy, ...
                raise ConfigError(f"trainer: {error}") from error
        if not isinstance(made, pl.Trainer):
            raise ConfigError(f"trainer: made {type(made).__name__}, expected a lightning.pytorch.Trainer")
        made.callbacks.append(self._progress)  # type: ignore[attr-defined]
        loggers, made.loggers = list(made.loggers), []
        return made, loggers

    @cached_property
    def _disk_store(self) -> DiskStore | None:
        try:
            return None if self.store is None else DiskStore(Path(self.store).expanduser())
        except RuntimeError as error:  # a container's user may have no home
            raise ConfigError(f"store: {self.store}: {error} Give store.path, or store=off") from error

    @cached_property
    def _progress(self) -> TaskProgress:
        return TaskProgress(self.progress)

    @property
    def _settings(self) -> dict[str, Any]:
        """What of the runner decides the numbers of a result."""
        return {"precision": str(self._trainer.precision), "seed": self.seed, "bootstrap": self.bootstrap}


def _quiet_cpu_trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its advice on training, which does not apply here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
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
