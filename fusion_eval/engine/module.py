"""The one LightningModule: it runs any task on any model in Lightning's test loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fusion_eval.engine.assignment import Assignment
from fusion_eval.engine.batch_size import is_out_of_memory
from fusion_eval.engine.columns import Columns
from fusion_eval.engine.placement import Placement
from fusion_eval.engine.ranks import all_ranks, raise_together, require_agreement
from fusion_eval.engine.reading import Batch, Feed
from fusion_eval.engine.sample_memory import SampleRows
from fusion_eval.engine.shard import by_length, interleave
from fusion_eval.errors import TaskError
from fusion_eval.tasks import Prediction

if TYPE_CHECKING:
    from fusion_eval.engine.group import GroupPass

__all__ = ["TaskModule", "columns_to_keep"]

_OUTPUTS, _TARGETS = "metric outputs", "metric targets"
"""Keys, no names of columns, under which what the metrics are given is kept."""

_HELD = 2**24
"""Bytes of outputs that wait, on the device, for an update of the metrics: one a batch may cost more than its forward.
"""


class TaskModule(pl.LightningModule):
    """One task, one model, one pass over the samples.

    After `Trainer.test` the attribute `columns` (on every rank) holds what the task kept of each sample, in the order
    of `indices`, and, if `keep_updates`, `updates` what the metrics were given, and `rows` both for a later pass.

    Args:
        assignment: What is evaluated. Model and head are moved to the Trainer's device and stay there: Lightning, which
            would move them back to the CPU after every task, does not see them.
        feed: Brings the samples.
        placement: In which form the model runs.
        keep_updates: Whether what the metrics are given is kept, for a bootstrap or for `rows`.
        known: Rows of earlier passes: these samples do not go through the model again; at least one sample a rank does.
        group: Models that may go along; None: none.
    """

    def __init__(
        self,
        assignment: Assignment,
        feed: Feed,
        placement: Placement,
        keep_updates: bool,
        known: SampleRows | None = None,
        group: GroupPass | None = None,
    ) -> None:
        super().__init__()
        self.metrics = assignment.metrics
        self.indices = assignment.indices
        self.values: dict[str, float] = {}
        self.evaluated = 0
        self.columns: dict[str, np.ndarray] = {}
        self.updates: tuple[np.ndarray, np.ndarray] | None = None
        self.rows: SampleRows | None = None
        self._name = assignment.name
        self._task = assignment.task
        self._subject = assignment.subject
        self._samples = assignment.samples
        self._known = known
        rest = self.indices if known is None else np.setdiff1d(self.indices, known.indices)
        self._ordered = by_length(self._samples, rest)
        self._feed = feed
        self._placement = placement
        self._keep_updates = keep_updates
        self._group = group
        self._kept: Columns | None = None
        self._waiting: Columns | None = None
        self._error: Exception | None = None

    @property
    def share(self) -> np.ndarray:
        """The samples of this rank, shape `(m,)`, in the order in which they are evaluated."""
        return self._ordered[self.trainer.global_rank :: self.trainer.world_size]

    def test_dataloader(self) -> Any:
        """This rank's batches; an error while reading them ends the pass on all ranks together."""
        return _Guarded(self, self._feed.batches(self.share))

    @contextmanager
    def placed(self, trainer: pl.Trainer) -> Iterator[None]:
        """Model and head as they are run; see `Placement`. Then they are let go: see `forget`."""
        with self._placement.placed(self._subject, trainer) as self._subject:
            yield
        del self._subject, self._group

    def forget(self) -> None:
        """Let go of what is known of samples: the Trainer keeps this module until the next task, if there is one."""
        self.columns, self.updates, self.rows, self._known = {}, None, None, None

    def on_test_start(self) -> None:
        """Make sure that all ranks evaluate the same thing, and bring the metrics to where the model is."""
        for metric in self.metrics.values():
            if metric.device != self.device:
                metric.to(self.device)
        require_agreement((self._name, len(self.indices)), "the task that runs")
        if self._known is not None and self.trainer.is_global_zero:
            outputs, targets = (torch.from_numpy(self._known.columns[name]) for name in (_OUTPUTS, _TARGETS))
            self._update(outputs.to(self.device), targets.to(self.device))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check targets on the CPU."""
        if not self._feed.reader.on_device:
            with self.catching():
                self._task.check(batch.data, self._samples)
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Bring what is not there yet; on a CPU, a look at each part of a batch costs more than a small model."""
        if device.type == "cpu" or self._feed.reader.on_device:
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Do what is left to do to the inputs on the device: targets keep their precision."""
        inputs, targets = self._feed.reader.finish(batch.data)
        inputs = tree_map(self.trainer.precision_plugin.convert_input, inputs)
        return Batch(batch.indices, (self._placement.prepare(inputs), targets))

    def test_step(self, batch: Batch) -> None:
        """Predict, keep the columns and, once enough outputs wait, update the metrics."""
        if self._error is not None:
            return
        with self.catching():
            for prediction in self._predictions(batch):
                self._keep(prediction)
                self._hold(prediction.outputs, prediction.targets)

    def _hold(self, outputs: Tensor, targets: Tensor) -> None:
        """Let outputs wait for those of other batches, as no number depends on batches, if there is room."""
        if self._waiting is None:
            rows = max(1, _HELD // max(1, outputs[:1].nbytes))
            self._waiting = Columns(min(rows, len(self.share)))
        if len(self._waiting) + len(outputs) > self._waiting.count:
            self._release()
        if len(outputs) > self._waiting.count:
            self._update(outputs, targets)
        else:
            self._waiting.add({_OUTPUTS: outputs, _TARGETS: targets})

    def _release(self) -> None:
        """Update the metrics with what waits."""
        if self._waiting is not None and len(self._waiting):
            rows = self._waiting.rows()
            self._waiting = Columns(self._waiting.count)  # a metric may keep what it is given
            self._update(rows[_OUTPUTS], rows[_TARGETS])

    def _update(self, outputs: Tensor, targets: Tensor) -> None:
        for metric in self.metrics.values():
            metric.update(outputs, targets)
        self.evaluated += len(targets)

    def _predictions(self, batch: Batch) -> Iterator[Prediction]:
        """Those of a batch, or, where it does not fit into memory, of its parts, which are read again."""
        size, indices = self._feed.size, batch.indices
        if len(indices) <= size.limit:
            prediction = self._predict(batch)
            if prediction is not None:
                yield prediction
                return
            if len(indices) == 1:
                raise TaskError(f"sample {indices[0]} alone does not fit into the memory of {self.device}")
            size.halve(len(indices))
        del batch
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        while len(indices):
            part, indices = np.split(indices, [min(size.size, len(indices))])
            read: Batch = self.on_before_batch_transfer(Batch(part, self._feed.reader.read(part)), 0)
            yield from self._predictions(self.trainer.strategy.batch_to_device(read))

    def _predict(self, batch: Batch) -> Prediction | None:
        """None if memory runs out."""
        samples, size = len(batch.indices), self._feed.size
        try:
            with size.timed(samples, batch.data), self._placement.eager(size.settled and samples == size.size):
                if self._group is not None:
                    return self._group.predict(self._subject, batch)
                return self._task.predict(self._subject.model, self._subject.head, batch.data, self._samples)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def on_test_epoch_end(self) -> None:
        """Update the metrics, agree on errors, collect the columns of all ranks, and log each metric once.

        They are logged as numbers, and under their own names, without that of the task: a Trainer keeps all that was
        ever logged, and goes through it at the start and the end of each task.
        """
        if self._error is None:
            with self.catching():
                self._release()
        raise_together(self._error)
        assert self._kept is not None
        shard = {key: _on_cpu(column) for key, column in self._kept.rows().items()}
        shards = all_ranks(shard)
        whole = {key: interleave([part[key] for part in shards]) for key in shard}
        rows = SampleRows(self._ordered, whole)
        if self._known is not None:
            rows = rows.joined(self._known)
        elif self._ordered is not self.indices:
            rows = rows.select(np.argsort(self._ordered))
        whole = dict(rows.columns)
        if self._keep_updates:
            self.rows = rows
            self.updates = whole.pop(_OUTPUTS), whole.pop(_TARGETS)
        groups = {} if self._samples.groups is None else {"group": self._samples.groups[self.indices]}
        self.columns = {"index": self.indices, **groups, **whole}
        self._kept = self._waiting = None
        self.values = {name: _number(name, metric.compute()) for name, metric in self.metrics.items()}
        self.evaluated = sum(all_ranks(self.evaluated))
        self.log_dict(self.values)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Alone, let errors pass; where other ranks wait in a collective, remember the first until all can raise it."""
        try:
            yield
        except Exception as error:
            if self.trainer.world_size == 1:
                raise
            self._error = self._error or error

    def _keep(self, prediction: Prediction) -> None:
        if self._kept is None:
            self._kept = Columns(len(self.share))
        self._kept.add(columns_to_keep(prediction, self._keep_updates))


def columns_to_keep(prediction: Prediction, updates: bool) -> dict[str, Tensor | list[str]]:
    """What is kept of each sample of a batch: the columns, and, if `updates`, what the metrics are given."""
    given = {_OUTPUTS: prediction.outputs, _TARGETS: prediction.targets} if updates else {}
    return {**prediction.columns, **given}


def _on_cpu(column: Tensor | np.ndarray) -> np.ndarray:
    return column if isinstance(column, np.ndarray) else column.cpu().numpy()


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TaskError(f"metrics.{name}: expected one number, found {value!r:.100}")
    return float(value)


class _Guarded:
    """A loader that ends early when reading fails on one of several ranks, instead of leaving the others waiting."""

    def __init__(self, module: TaskModule, batches: Any) -> None:
        self._module = module
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        with self._module.catching():
            try:
                yield from self._batches
            except Exception as error:
                if self._batches.num_workers == 0:
                    raise
                # torch leaves a reference cycle that keeps the workers; the frames in the worker are in the message
                raise error.with_traceback(None) from None
