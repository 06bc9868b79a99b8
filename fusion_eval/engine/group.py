"""Small models are evaluated in groups: one pass over a task, for the model whose turn it is and for some to come.

A model that is so small that launching its operations takes longer than computing them costs a pass hardly less than
many models do that are stacked (`fusion_eval.engine.stack`). Whether it is, and whether the stacked models predict the
same and faster, is measured on batches of the evaluation itself, once for each kind of task, architecture, batch size
and device. A group only saves forwards: what it finds out waits in `process_ahead`, and each model is evaluated in its
turn as it would have been, with samples that are known. So whatever a group cannot do is done one by one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from fusion_eval.engine.ahead import RowsAhead
from fusion_eval.engine.assignment import Assignment
from fusion_eval.engine.module import columns_to_keep
from fusion_eval.engine.placement import Placement
from fusion_eval.engine.reading import Batch
from fusion_eval.engine.sample_memory import SampleRows
from fusion_eval.engine.stack import OutputBytes, Stack, of_model, tensors_of
from fusion_eval.engine.subject import Subject
from fusion_eval.tasks import Prediction

if TYPE_CHECKING:
    from fusion_eval.engine.members import Member

__all__ = ["Choice", "GroupPass"]

_MEMORY = 10**9
"""Bytes that a group may take: twice its weights and all that its forwards make of a batch; as many for its rows."""

_LOOKS = 3
"""How often something is timed; the least counts."""

_LAUNCHES = 0.5
"""Part of the time of a batch that a single sample takes, from which on launches count for more than arithmetic."""

_FASTER = 0.9
"""Part of the time that models take one by one, below which a group is faster; more is noise."""

_TOLERANCE = 1e-5
"""How far numbers of a group may be from those of one model, as a part of the largest of them, or of 1."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Choice:
    """What was measured of one kind of task, architecture, batch size and device.

    Attributes:
        size: Samples of a batch.
        looks: How many batches were looked at.
        batch: Seconds of the forward of a batch, the least of all looks but the first, which is not like the others.
        sample: Seconds of the forward of a single sample, likewise.
        step: Seconds between two forwards, likewise; unknown as long as tasks have one batch only.
        outputs: Bytes that the operations on one batch return, all together.
        faster: Number of models to whether they are faster as a group.
        possible: Whether a group predicts what its models predict, as far as it was seen.
    """

    size: int
    looks: int = 0
    batch: float = math.inf
    sample: float = math.inf
    step: float = math.inf
    outputs: int = 0
    faster: dict[int, bool] = field(default_factory=dict)
    possible: bool = True

    @property
    def measured(self) -> bool:
        """Whether a model alone was measured."""
        return not self.possible or self.looks > _LOOKS

    @property
    def overhead(self) -> float:
        """`step`, as far as it is known."""
        return self.step if self.step < math.inf else 0.0

    def room(self, model: nn.Module, most: int) -> int:
        """How many models may be a group of at most `most`; 1: none."""
        launches = self.size == 1 or self.sample + self.overhead >= _LAUNCHES * (self.batch + self.overhead)
        if not self.possible or not launches:
            return 1
        weights = sum(tensor.nbytes for tensor in tensors_of(model).values())
        room = max(1, min(most, _MEMORY // (2 * weights + self.outputs + 1)))
        return 1 if self.is_faster(room) is False else room

    def is_faster(self, count: int) -> bool | None:
        """Whether so many models are faster as a group, as more or fewer were found to be; None: that is to be seen."""
        if any(faster and fewer <= count for fewer, faster in self.faster.items()):
            return True
        return False if any(not faster and more >= count for more, faster in self.faster.items()) else None


class GroupPass:
    """One pass over a task, for one model and those that go along with it; or the pass that measures the model alone.

    Args:
        assignment: What is evaluated in this turn.
        choice: What is known, and to be found out.
        members: Those that go along; none while the model alone is measured.
    """

    def __init__(self, assignment: Assignment, choice: Choice, members: Sequence[Member]) -> None:
        self._task = assignment.task
        self._samples = assignment.samples
        self._total = len(assignment.indices)
        self._choice = choice
        self._members = list(members)
        self._stack: Stack | None = None
        self._indices: list[np.ndarray] = []
        self._kept: list[Prediction] = []
        self._ended: float | None = None

    @contextmanager
    def placed(self, placement: Placement, trainer: pl.Trainer) -> Iterator[None]:
        """The members where the model under test is."""
        with ExitStack() as stack:
            for member in self._members:
                stack.enter_context(placement.placed(Subject(member.model), trainer))
            yield

    def predict(self, subject: Subject, batch: Batch) -> Prediction:
        """`Task.predict` with the model under test.

        Raises:
            Exception: from the task, about this model.
        """
        alone = partial(self._task.predict, head=subject.head, batch=batch.data, samples=self._samples)
        if not self._choice.measured:
            return self._measure(alone, subject, batch)
        if self._members:
            try:
                stacked = self._together(alone, subject, batch)
            except Exception as error:  # of a group: what is wrong with the model itself shows below
                self._choice.possible = False
                self._give_up(f"{type(error).__name__}: {error}")
            else:
                if stacked is not None:
                    return of_model(stacked, 0)
        return alone(subject.model)

    def finish(self, ahead: RowsAhead) -> None:
        """Leave what was found out about the members, but for the last sample: a pass evaluates one at least."""
        if not self._members or self._total < 2:
            return
        indices = np.concatenate(self._indices)[:-1]
        batches = [columns_to_keep(prediction, updates=True) for prediction in self._kept]
        models = len(self._members) + 1
        columns = {name: _of_all(models, [batch[name] for batch in batches]) for name in batches[0]}
        for number, member in enumerate(self._members, start=1):
            ahead.put(member.key, SampleRows(indices, {name: rows[number, :-1] for name, rows in columns.items()}))

    def _measure(self, alone: Callable[[nn.Module], Prediction], subject: Subject, batch: Batch) -> Prediction:
        """Time a batch, and one sample of it."""
        choice, model = self._choice, subject.model
        if len(batch.indices) != choice.size:
            return alone(model)
        _wait(model)
        if self._ended is not None:
            choice.step = min(choice.step, time.perf_counter() - self._ended)
        prediction, seconds = _timed(lambda: alone(model), model)
        if choice.looks:
            choice.batch = min(choice.batch, seconds)
            self._measure_sample(subject, batch)
        choice.looks += 1
        self._ended = time.perf_counter()
        return prediction

    def _measure_sample(self, subject: Subject, batch: Batch) -> None:
        choice, model = self._choice, subject.model
        try:
            data = apply_to_collection(batch.data, Tensor, lambda part: part[:1])
            one = partial(self._task.predict, model, subject.head, data, self._samples)
            with torch.random.fork_rng():
                with OutputBytes() as outputs:
                    one()
                choice.outputs = outputs.total * choice.size
                choice.sample = min(choice.sample, _timed(one, model)[1])
        except Exception:  # a batch that cannot be cut, or a model that wants several samples
            choice.possible = False

    def _together(self, alone: Callable[[nn.Module], Prediction], subject: Subject, batch: Batch) -> Prediction | None:
        """The predictions of all models; None if they are not worth having."""
        models = [subject.model, *(member.model for member in self._members)]
        first = self._stack is None
        self._stack = self._stack or Stack(self._task, models, self._samples)
        predict = partial(self._stack.predict, subject.head, batch.data)
        stacked = predict()
        if first:
            with torch.random.fork_rng():  # a model that draws random numbers gets those that it gets alone
                reason = self._objection(stacked, predict, alone, models)
            if reason is not None:
                self._give_up(reason)
                return None
        self._indices.append(batch.indices)
        self._kept.append(stacked)
        return stacked

    def _objection(
        self,
        stacked: Prediction,
        predict: Callable[[], Prediction],
        alone: Callable[[nn.Module], Prediction],
        models: list[nn.Module],
    ) -> str | None:
        """What speaks against the group, after a look at what models predict one by one: all of them the first time."""
        choice, count = self._choice, len(models)
        if choice.is_faster(count) is not None:
            singly = [alone(models[0])]
        else:
            singly, seconds = _timed(lambda: [alone(model) for model in models], models[0])
            grouped = min(_timed(predict, models[0])[1] for _ in range(_LOOKS))
            least = min(seconds, count * choice.batch)
            choice.faster[count] = grouped + choice.overhead < _FASTER * (least + count * choice.overhead)
            _log.info("%d models: %.2g s a batch as a group, %.2g s one by one", count, grouped, least)
        if not all(_agree(of_model(stacked, number), single) for number, single in enumerate(singly)):
            choice.possible = False
            return "other numbers than one by one"
        samples = len(stacked.targets[0])
        if sum(tensor.nbytes for tensor in _tensors(stacked)) / samples * self._total > _MEMORY:
            return "too many numbers to keep"
        return None if choice.is_faster(count) else "not faster than one by one"

    def _give_up(self, reason: str) -> None:
        if self._members:
            _log.info("no group of %d models: %s", len(self._members) + 1, reason)
        self._members, self._stack = [], None
        self._indices.clear()
        self._kept.clear()


def _of_all(models: int, batches: Sequence[Any]) -> np.ndarray:
    """A column of all models, on the CPU: shape `(models, n, ...)`. Texts are the same for all."""
    if isinstance(batches[0], list):
        texts = np.array([text for batch in batches for text in batch], dtype=object)
        return np.broadcast_to(texts, (models, *texts.shape))
    column: np.ndarray = torch.cat(list(batches), dim=1).cpu().numpy()
    return column


def _agree(one: Prediction, other: Prediction) -> bool:
    """Whether numbers are equal up to rounding; integers, such as predicted classes, and texts are to be the same."""
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return one.columns.keys() == other.columns.keys() and all(
        ours.shape == theirs.shape and ours.dtype == theirs.dtype and _close(ours, theirs) for ours, theirs in pairs
    )


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    finite = theirs[theirs.isfinite()].abs()
    largest = max(1.0, float(finite.max())) if len(finite) else 1.0
    return torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * largest, equal_nan=True)


def _tensors(prediction: Prediction) -> list[Tensor]:
    columns = (column for column in prediction.columns.values() if isinstance(column, Tensor))
    return [prediction.outputs, prediction.targets, *columns]


def _timed(run: Callable[[], T], model: nn.Module) -> tuple[T, float]:
    _wait(model)
    started = time.perf_counter()
    made = run()
    _wait(model)
    return made, time.perf_counter() - started


def _wait(model: nn.Module) -> None:
    """For the device of a model."""
    for tensor in tensors_of(model).values():
        if tensor.device.type == "cuda":
            torch.cuda.synchronize(tensor.device)
        return
