"""Runs tasks with one reused, quiet Lightning Trainer."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import nn
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.engine.estimate import estimate_metrics
from fusion_eval.engine.fingerprint import code_of, describe_architecture, fingerprint_config, fingerprint_weights
from fusion_eval.engine.module import EVALUATED, TaskModule
from fusion_eval.engine.progress import TaskProgress
from fusion_eval.engine.ranks import raise_together
from fusion_eval.engine.shard import select
from fusion_eval.engine.store import process_store
from fusion_eval.errors import ConfigError, TaskError
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

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_workers": 0, "limit": 1, "seed": 0, "bootstrap": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if name == "limit" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ConfigError(f"{name}: expected an integer >= {minimum}, found {value!r}")

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
        started = time.perf_counter()
        samples, head = _prepare(name, task, model)
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
            keep_outputs=self.bootstrap > 0,
        )
        key = self._key(fingerprints, task, module, [part for part in (model, head) if part is not None])
        known = None if key is None else process_store.get(key)
        if known is not None:
            return known
        self._progress.announce(f"{label} on {name}")
        logged = self._test(module)
        if logged.pop(EVALUATED) != len(indices):
            raise TaskError(f"{len(indices)} samples should have been evaluated exactly once, Lightning ran others")
        resamples = self.bootstrap if self.is_global_zero else 0  # one rank reports
        metrics, errors = estimate_metrics(
            task, module.metrics, logged, module.columns, module.outputs, resamples, self.seed
        )
        primary = next((key for key, metric in module.metrics.items() if _more_is_better(metric)), task.primary)
        result = TaskResult(
            metrics=metrics,
            standard_errors=errors,
            primary=primary,
            count=len(indices),
            seconds=time.perf_counter() - started,
            samples=module.columns,
            scores=task.sample_values(module.metrics[primary], module.columns),
            fingerprints=fingerprints,
            higher_is_better=_more_is_better(module.metrics[primary]),
        )
        if key is not None:
            process_store.put(key, result)
        return result

    def show(self, result: TaskResult) -> None:
        """Leave a line on standard error about what `run` has just evaluated, if `progress` is on."""
        if self.is_global_zero:
            self._progress.done(result)

    def _key(
        self, fingerprints: dict[str, str], task: Task, module: TaskModule, parts: list[nn.Module]
    ) -> tuple[Hashable, ...] | None:
        """All that a result depends on; None where a part of the task (a lambda) cannot be described."""
        try:
            settings = task.settings()
        except ConfigError:
            return None
        architecture = [describe_architecture(part) for part in parts]
        described = fingerprint_config(fingerprints, architecture, settings, self._settings, module.indices.tolist())
        return (described, *map(code_of, parts), *map(type, module.metrics.values()))

    def _test(self, module: TaskModule) -> dict[str, float]:
        trainer = self._trainer
        try:
            with _quiet(), _seeded(self.seed), module.placed(trainer):
                [logged] = trainer.test(module, verbose=False)
        except BaseException:
            del self.__dict__["_trainer"]  # it stopped half-way; the next task gets a fresh one
            raise
        return {key.rpartition("/")[2]: float(value) for key, value in logged.items()}

    @cached_property
    def _trainer(self) -> pl.Trainer:
        with _quiet():
            try:
                made: Any = (self.trainer or _quiet_cpu_trainer)()
            except Exception as error:  # Lightning raises many kinds: no such device, precision, strategy, ...
                raise ConfigError(f"trainer: {error}") from error
        if not isinstance(made, pl.Trainer):
            raise ConfigError(f"trainer: made {type(made).__name__}, expected a lightning.pytorch.Trainer")
        made.callbacks.append(self._progress)  # type: ignore[attr-defined]
        return made

    @cached_property
    def _progress(self) -> TaskProgress:
        return TaskProgress(self.progress)

    @property
    def _settings(self) -> dict[str, Any]:
        """What of the runner decides the numbers of a result."""
        return {"precision": str(self._trainer.precision), "seed": self.seed, "bootstrap": self.bootstrap}


def _more_is_better(metric: Metric) -> bool:
    return metric.higher_is_better is not False


def _quiet_cpu_trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _prepare(name: str, task: Task, model: nn.Module) -> tuple[Samples, nn.Module | None]:
    """Load data and head, on all ranks or on none."""
    prepared: tuple[Samples, nn.Module | None] | None = None
    error: Exception | None = None
    try:
        prepared = _load_samples(task), _find_head(name, task, model)
    except Exception as raised:
        error = raised
    raise_together(error)
    assert prepared is not None
    return prepared


def _load_samples(task: Task) -> Samples:
    samples = task.data.load()
    if len(samples) == 0:
        raise TaskError(f"{task.data} holds no samples")
    return samples


def _find_head(name: str, task: Task, model: nn.Module) -> nn.Module | None:
    if task.head is not None and not isinstance(task.head, str):
        return task.head.load()
    heads = getattr(model, "heads", None)
    if not isinstance(heads, (Mapping, nn.ModuleDict)):  # others count attention heads under this name
        heads = {}
    key = task.model_key(name)
    if key in heads:
        return heads[key]
    if isinstance(task.head, str) and heads:  # a model that brings no heads returns logits
        raise TaskError(f"the model has no head {task.head!r}; it has: {', '.join(heads)}")
    return None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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
