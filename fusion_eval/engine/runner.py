"""Runs tasks with one reused, quiet Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import nn

from fusion_eval.data import DataCache
from fusion_eval.engine.access import Access
from fusion_eval.engine.ahead import process_ahead
from fusion_eval.engine.assignment import Assignment
from fusion_eval.engine.batch_size import BatchSize
from fusion_eval.engine.evaluate import evaluate
from fusion_eval.engine.group import GroupPass
from fusion_eval.engine.key import dependencies, process_key
from fusion_eval.engine.kind import Kind
from fusion_eval.engine.members import Admission
from fusion_eval.engine.module import TaskModule
from fusion_eval.engine.placement import Placement
from fusion_eval.engine.prepare import fingerprint_samples, prepare
from fusion_eval.engine.progress import TaskProgress
from fusion_eval.engine.ranks import raise_together
from fusion_eval.engine.reading import Feed, Reader
from fusion_eval.engine.sample_memory import SampleMemory
from fusion_eval.engine.shard import select
from fusion_eval.engine.store import DiskStore, process_store
from fusion_eval.engine.subject import Subject
from fusion_eval.engine.trainer import gather_ranks, make_trainer, quiet
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.report import TaskResult
from fusion_eval.tasks import Task

__all__ = ["Runner"]

_MOST = 16
"""Models at once with `group=auto`."""

_PRECISIONS = (Precision, MixedPrecision)
"""What leaves the weights as they are, so that they can be stacked."""

_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Of `torch.compile`."""


@dataclass(frozen=True)
class Runner:
    """How tasks are run: device, precision and processes come with the Trainer, the rest is here.

    Args:
        trainer: Makes a `lightning.pytorch.Trainer`; in YAML one with `_partial_: true`. None: the CPU, in float32.
        batch_size: Samples a batch, on each device; `auto`: as many as are fastest, which is found out as tasks run and
            remembered for the architecture, the device and the precision. What does not fit into memory is halved.
        num_workers: Processes that load data, on each device; 0 loads in the process itself. They have nothing to do
            for samples that lie in memory or are prepared.
        limit: At most so many samples a task, drawn at random with `seed`; None: all.
        seed: Of `limit`, of the bootstrap, and of models that draw random numbers.
        bootstrap: Resamples behind the standard error of a metric that is no mean over samples; 0: no such errors.
        progress: Whether to show on standard error what runs.
        store: Directory of results that are not evaluated again, shared with other processes and machines; None: only
            this process remembers.
        cache: Of samples that are decoded and preprocessed once; None: they are each time.
        resident: Whether loaded data is kept for the tasks and jobs to come, and on the device: `auto`, if that is a
            GPU with room for it; `on`, whatever it is; `off`: each task loads its own.
        channels_last: Whether images lie in memory pixel by pixel, with which convolutional models may be faster.
        compile: Whether models go through `torch.compile`, or which mode of it, such as `max-autotune`.
        group: How many models `run` may evaluate at once, where that proves to be faster and to give the same numbers
            (see `fusion_eval.engine.group`): `auto`, up to 16; `off`. Never with several processes, `compile`, or a
            precision that is neither float32 nor mixed. The time of such a pass counts for the model whose turn it is.

    Raises:
        ConfigError: if an argument is out of range.
    """

    trainer: Callable[..., pl.Trainer] | None = None
    batch_size: int | Literal["auto"] = 128
    num_workers: int = 0
    limit: int | None = None
    seed: int = 0
    bootstrap: int = 100
    progress: bool = False
    store: str | None = None
    cache: DataCache | None = None
    resident: Literal["auto", "on", "off"] = "auto"
    channels_last: bool = False
    compile: bool | str = False
    group: int | Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_workers": 0, "limit": 1, "seed": 0, "bootstrap": 0, "group": 2}
        words = {("limit", None), ("batch_size", "auto"), ("group", "auto"), ("group", "off")}
        for name, minimum in least.items():
            value = getattr(self, name)
            if (name, value) in words:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                more = {"batch_size": "; auto finds the fastest", "group": ", auto or off"}.get(name, "")
                raise ConfigError(f"{name}: expected an integer >= {minimum}, found {value!r}{more}")
        choices = {"resident": ("auto", "on", "off"), "channels_last": (True, False), "compile": (True, False, *_MODES)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                found = getattr(self, name)
                raise ConfigError(f"{name}: expected one of {', '.join(map(str, known))}; found {found!r}")

    @property
    def loggers(self) -> list[Logger]:
        """The Trainer's, which it does not use itself: see `fusion_eval.engine.loggers`."""
        return self._trainer_and_loggers[1]

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self._trainer.is_global_zero)

    @property
    def processes(self) -> int:
        """How many share the samples of a task; each needs one."""
        return int(self._trainer.num_devices * self._trainer.num_nodes)

    def run(
        self,
        name: str,
        task: Task,
        model: nn.Module,
        label: str = "model",
        indices: np.ndarray | None = None,
        memory: SampleMemory | None = None,
        coming: Iterable[nn.Module] = (),
    ) -> TaskResult:
        """Evaluate a model on one task.

        Args:
            name: Of the task.
            task: The task.
            model: Features or logits out. A task without a head of its own uses the one under its name in the model's
                mapping `heads`, where the model has one.
            label: What the progress display calls the model.
            indices: Which samples to evaluate, ascending, of those that None means: all, or `limit` of them.
            memory: What earlier passes found out about these samples is taken from there, and left there by this one.
            coming: Models that this method is going to be asked about next. Some may be evaluated along with this one;
                what is found out is kept until their turn.

        Raises:
            FusionEvalError: the data, the model's output or a metric is not what it should be.
        """
        if isinstance(model, MergedModel):
            model.adapt(task.model_key(name))
        kept, head = prepare(name, task, model, self.resident != "off", self.cache)
        samples, subject = kept.thing, Subject(model, head)
        selected = select(len(samples), self.limit, self.seed)
        indices = selected if indices is None else indices
        if len(indices) < self.processes:
            raise TaskError(f"{len(indices)} samples cannot be shared by {self.processes} processes")
        fingerprints = {**subject.fingerprints, "data": fingerprint_samples(kept, self._cache_directory("digests"))}
        metrics = task.build_metrics(samples)
        key = process_key(fingerprints, task, metrics, subject, indices, self._settings)
        known = None if key is None else process_store.get(key)
        if known is not None:
            return known
        assignment = Assignment(name, task, metrics, subject, samples, indices, fingerprints, key)
        what = f"{label} on {name}"
        run = partial(self._evaluate, assignment, selected, what, memory, coming)
        depends_on = partial(dependencies, fingerprints, task, subject, samples, indices, self._settings)
        result = self.recall_or(run, depends_on, what)
        if key is not None:
            process_store.put(key, result)
        return result

    def recall_or(
        self, run: Callable[[], TaskResult], depends_on: Callable[[], dict[str, Any] | None], what: str
    ) -> TaskResult:
        """The result that the store knows, or else that of `run`, which it then knows.

        Args:
            run: Computes the result.
            depends_on: Tells all that decides it, see `DiskStore.get_or_run`; None if that cannot be told.
            what: It is the result of, in words.
        """
        store = self._disk_store
        key = None if store is None else depends_on()
        if store is None or key is None:
            return run()
        gather_ranks(self._trainer)
        return store.get_or_run(key, run, what, leads=self.is_global_zero)

    def show(self, result: TaskResult) -> None:
        """Leave a line on standard error about what `run` has just evaluated, if `progress` is on."""
        if self.is_global_zero:
            self._progress.done(result)

    def _evaluate(
        self,
        assignment: Assignment,
        selected: np.ndarray,
        what: str,
        memory: SampleMemory | None,
        coming: Iterable[nn.Module],
    ) -> TaskResult:
        """One pass over the samples; `selected` are those that later passes may ask for, too."""
        name, task, fingerprints = assignment.name, assignment.task, assignment.fingerprints
        reader = self._open(assignment, selected)
        kind = Kind.of(
            task, assignment.subject, self._device, str(self._trainer.precision), self.channels_last, self.compile
        )
        asked = None if self.batch_size == "auto" else self.batch_size
        size = kind.batch_size(asked, self._cache_directory("batch_sizes"))
        placement = Placement(self.channels_last, self.compile)
        known = process_ahead.take(assignment.key)
        if known is None and memory is not None:
            known = memory.recall(name, fingerprints, assignment.indices, unknown=self.processes)
        group = self._start_group(assignment, coming, kind, size) if known is None else None
        feed = Feed(reader, size, self.num_workers, pin_memory=self._device.type == "cuda")
        keep = self.bootstrap > 0 or memory is not None or known is not None
        module = TaskModule(assignment, feed, placement, keep, known, group)
        self._progress.announce(what)
        try:
            with quiet(), nullcontext() if group is None else group.placed(placement, self._trainer):
                result = evaluate(self._trainer, task, module, fingerprints, self.bootstrap, self.seed)
        except BaseException:
            del self.__dict__["_trainer_and_loggers"]  # it stopped half-way; the next task gets a fresh one
            raise
        if memory is not None and module.rows is not None:
            memory.keep(name, fingerprints, module.rows)
        module.forget()
        if group is not None:
            group.finish(process_ahead)
        return result

    def _start_group(
        self, assignment: Assignment, coming: Iterable[nn.Module], kind: Kind, size: BatchSize
    ) -> GroupPass | None:
        """Who goes along with a model; None where nobody may."""
        alone = self.processes > 1 or self.compile or type(self._trainer.precision_plugin) not in _PRECISIONS
        if not coming or assignment.key is None or alone or not size.settled or self.group == "off":
            return None
        admission = Admission(assignment, self._settings, self._disk_store, share=self.resident != "off")
        choice = kind.choice(min(size.size, len(assignment.indices)))
        return admission.start(coming, choice, _MOST if self.group == "auto" else self.group)

    def _open(self, assignment: Assignment, selected: np.ndarray) -> Reader:
        """What reads the selected samples, on all ranks or on none."""
        reader, error = None, None
        name, task, samples = assignment.name, assignment.task, assignment.samples
        resident = self.resident if self.processes == 1 else "off"  # of several, each would hold all
        try:
            with self._progress.preparing(name, len(selected)) as advance:
                access = Access(self.cache or DataCache("off"), resident, self._device, advance)
                fingerprint = assignment.fingerprints["data"]
                reader = access.open(
                    task.data, samples, fingerprint, selected, lambda batch: task.check(batch, samples)
                )
        except Exception as raised:
            error = raised
        raise_together(error)
        assert reader is not None
        return reader

    def _cache_directory(self, name: str) -> Path | None:
        return None if self.cache is None or self.cache.mode != "disk" else self.cache.directory / name

    @property
    def _device(self) -> torch.device:
        return self._trainer.strategy.root_device

    @property
    def _trainer(self) -> pl.Trainer:
        return self._trainer_and_loggers[0]

    @cached_property
    def _trainer_and_loggers(self) -> tuple[pl.Trainer, list[Logger]]:
        return make_trainer(self.trainer, self._progress)

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
        settings = {"precision": str(self._trainer.precision), "seed": self.seed, "bootstrap": self.bootstrap}
        return settings | ({"compile": self.compile} if self.compile else {})  # it is what one may want to compare
