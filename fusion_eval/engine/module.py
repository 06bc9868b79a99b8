"""The one LightningModule: it runs any task on any model in Lightning's test loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor, nn
from torchmetrics import SumMetric

from fusion_eval.data import Samples
from fusion_eval.engine.ranks import all_ranks, raise_together, require_agreement
from fusion_eval.engine.shard import by_length, interleave, loader
from fusion_eval.tasks import Prediction, Task

__all__ = ["EVALUATED", "TaskModule"]

EVALUATED = "samples evaluated"
"""Key, behind the task's name, under which the number of samples is logged."""

_OUTPUTS, _TARGETS = "metric outputs", "metric targets"
"""Keys, no names of columns, under which what the metrics are given is kept."""


class TaskModule(pl.LightningModule):
    """One task, one model, one pass over the samples.

    After `Trainer.test` the attribute `columns` (on every rank) holds what the task kept of each sample, in the order
    of `indices`, and `updates` what the metrics were given, if `keep_updates`.

    Args:
        name: Prefix of the logged metrics, which keeps the tasks of one reused Trainer apart.
        task: The task.
        model: The model under test. It is moved to the Trainer's device and stays there: Lightning, which would move it
            back to the CPU after every task, does not see it.
        head: The task's head, if any.
        samples: The loaded data.
        indices: Shape `(n,)`: which samples are evaluated, over all ranks.
        batch_size: Samples a batch and device.
        num_workers: Processes that load data, on each device.
        keep_updates: Whether what the metrics are given is kept for a bootstrap.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        model: nn.Module,
        head: nn.Module | None,
        samples: Samples,
        indices: np.ndarray,
        batch_size: int,
        num_workers: int,
        keep_updates: bool,
    ) -> None:
        super().__init__()
        self.metrics = task.build_metrics(samples)
        self._logged = {**self.metrics, EVALUATED: SumMetric().set_dtype(torch.float64)}
        self.columns: dict[str, np.ndarray] = {}
        self.updates: tuple[np.ndarray, np.ndarray] | None = None
        self._name = name
        self._task = task
        self._unseen = (model, head)
        self._samples = samples
        self.indices = indices
        self._ordered = by_length(samples, indices)
        self._loading = (batch_size, num_workers)
        self._keep_updates = keep_updates
        self._kept: list[dict[str, Tensor | np.ndarray]] = []
        self._error: Exception | None = None

    def test_dataloader(self) -> Any:
        """This rank's batches; an error while reading them ends the pass on all ranks together."""
        mine = self._ordered[self.trainer.global_rank :: self.trainer.world_size]
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        return _Guarded(self, loader(self._samples, mine, *self._loading, pin_memory=pin_memory))

    @contextmanager
    def placed(self, trainer: pl.Trainer) -> Iterator[None]:
        """Model and head on the Trainer's device, in its precision and in eval mode; modes are restored afterwards."""
        model, head = self._unseen
        if isinstance(trainer.precision_plugin, (HalfPrecision, DoublePrecision)):  # they cast in place
            model, head = copy.deepcopy(model), copy.deepcopy(head)
        parts = nn.ModuleList([model] if head is None else [model, head])
        modes = {part: part.training for part in parts.modules()}
        trainer.precision_plugin.convert_module(parts)
        parts.to(trainer.strategy.root_device).eval()
        self._unseen = (model, head)
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training

    def on_test_start(self) -> None:
        """Make sure that all ranks evaluate the same thing, and let Lightning see the metrics.

        It logs registered metrics only; registered before, they would have been cast to the precision of the model.
        """
        self._registered = nn.ModuleDict({f"metric {key}": metric for key, metric in self._logged.items()})
        self._registered.to(self.device)
        require_agreement((self._name, len(self.indices)), "the task that runs")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check targets on the CPU."""
        with self.catching():
            self._task.check(batch, self._samples)
        return batch

    def test_step(self, batch: Any) -> None:
        """Predict, update the metrics, keep the columns: nothing here waits for the device."""
        if self._error is not None:
            return
        with self.catching():
            prediction = self._task.predict(*self._unseen, batch, self._samples)
            for metric in self.metrics.values():
                metric.update(prediction.outputs, prediction.targets)
            self._logged[EVALUATED].update(len(prediction.targets))
            self._keep(prediction)

    def on_test_epoch_end(self) -> None:
        """Agree on errors, collect the columns of all ranks, and log each metric once."""
        raise_together(self._error)
        shard = {key: _joined([batch[key] for batch in self._kept]) for key in self._kept[0]}
        shards = all_ranks(shard)
        whole = {key: interleave([part[key] for part in shards]) for key in shard}
        if self._ordered is not self.indices:
            whole = {key: rows[np.argsort(self._ordered)] for key, rows in whole.items()}
        if self._keep_updates:
            self.updates = whole.pop(_OUTPUTS), whole.pop(_TARGETS)
        groups = {} if self._samples.groups is None else {"group": self._samples.groups[self.indices]}
        self.columns = {"index": self.indices, **groups, **whole}
        self._kept.clear()
        self.log_dict({f"{self._name}/{key}": metric for key, metric in self._logged.items()})

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
        kept = {
            key: np.array(column, dtype=object) if isinstance(column, list) else column
            for key, column in prediction.columns.items()
        }
        if self._keep_updates:
            kept |= {_OUTPUTS: prediction.outputs, _TARGETS: prediction.targets}
        self._kept.append(kept)


def _joined(batches: list[Any]) -> np.ndarray:
    """The rows of all batches, on the CPU."""
    return np.concatenate(batches) if isinstance(batches[0], np.ndarray) else torch.cat(batches).cpu().numpy()


class _Guarded:
    """A loader that ends early when reading fails on one of several ranks, instead of leaving the others waiting."""

    def __init__(self, module: TaskModule, batches: Any) -> None:
        self._module = module
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        with self._module.catching():
            try:
                yield from self._batches
            except Exception as error:
                if self._batches.num_workers == 0:
                    raise
                # torch leaves a reference cycle that keeps the workers; the frames in the worker are in the message
                raise error.with_traceback(None) from None
