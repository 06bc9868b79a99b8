"""Calibration data: samples of the tasks that are never evaluated, for the merging methods that need some."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from fusion_eval.data import DataSource, Samples, TensorSamples
from fusion_eval.data.digest import digest_content
from fusion_eval.errors import ConfigError, FusionEvalError, suggest
from fusion_eval.merging.calibration import Batch
from fusion_eval.models import ModelPool
from fusion_eval.tasks.classification import Classification
from fusion_eval.tasks.task import Task

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """Some samples of another split of each task, for `fusion_eval.merging.Fisher` and the like.

    An expert's samples are those of the first task that has its name, or names it as its head. They are never
    evaluated ones: a data source that is also evaluated is refused, and a sample whose input is, byte for byte, in the
    data that is evaluated for this expert is left out. For data that lies in memory all samples are compared; for other
    data, which would have to be decoded, each with the evaluated sample of its number: the same data elsewhere is found
    out, single duplicates are not.

    Models run in float32. Samples, with their inputs, stay in memory.

    Args:
        tasks: Task name to task, as in the task pool that is evaluated.
        models: Where the architecture and the heads come from.
        split: What stands for `split` of each task's data source.
        samples: At most so many a task, drawn at random.
        batch_size: Samples a batch; batches of a task differ by one sample at most.
        seed: Of the draw.
        data: Task name to the data source to take instead, for sources that have no splits.
        device: Where models run: cpu, cuda, ...
        evaluated: What stands for `split` of each task's data where it is evaluated; None: nothing else.

    Raises:
        ConfigError: a number is out of range, `split` is no name, or `data` is for no task.
    """

    tasks: Mapping[str, Task]
    models: ModelPool
    split: str = "train"
    samples: int = 256
    batch_size: int = 32
    seed: int = 0
    data: Mapping[str, DataSource] = field(default_factory=dict)
    device: str = "cpu"
    evaluated: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"samples": 1, "batch_size": 1, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"calibration.{name}: expected an integer >= {least}, found {value!r}")
        if not isinstance(self.split, str) or not self.split:
            raise ConfigError(f"calibration.split: expected the name of a split, such as train, found {self.split!r}")
        for name in self.data:
            if name not in self.tasks:
                raise ConfigError(f"calibration.data: no task {name!r}{suggest(name, self.tasks)}")

    def backbone(self) -> nn.Module:
        """See `fusion_eval.merging.calibration.Calibration`."""
        return self.models.architecture().float().eval().requires_grad_().to(self.device)

    def batches(self, expert: str, size: int | None = None) -> Iterator[Batch]:
        """See `fusion_eval.merging.calibration.Calibration`; batches have `batch_size` samples unless told."""
        inputs, targets = self._of(expert).batch
        count = math.ceil(len(targets) / (size or self.batch_size))
        for rows in np.array_split(np.arange(len(targets)), count):  # no batch of one sample is left over
            part = slice(rows[0], rows[-1] + 1)
            if isinstance(inputs, Mapping):
                yield {key: value[part].to(self.device) for key, value in inputs.items()}, targets[part].to(self.device)
            else:
                yield inputs[part].to(self.device), targets[part].to(self.device)

    def outputs(self, expert: str, model: nn.Module, batch: Batch) -> Tensor:
        """See `fusion_eval.merging.calibration.Calibration`."""
        of = self._of(expert)
        return of.task.predict(model, of.head, batch, of.samples).outputs

    def logits(self, expert: str, model: nn.Module, batch: Batch) -> Tensor:
        """See `fusion_eval.merging.calibration.Calibration`."""
        task = self._of(expert).task
        if not isinstance(task, Classification):
            raise ConfigError(
                f"expert {expert!r}: this method reads the logits of classes, which a {type(task).__name__} has not: "
                "choose another method, or leave the expert out"
            )
        return self.outputs(expert, model, batch)

    def sources(self) -> list[DataSource]:
        """The data that the samples are drawn from, and the data that they are compared with.

        Raises:
            ConfigError: There is none for a task.
        """
        compared = [self._evaluated(name) for name in self.tasks]
        return [*compared, *(self._source(name, compared) for name in self.tasks)]

    def record(self, experts: Iterable[str]) -> dict[str, Any]:
        """See `fusion_eval.merging.calibration.Calibration`.

        Returns:
            "seed", and "experts": each to its task, split, number of samples, number of those left out because they
            are evaluated, and the fingerprint of the samples.
        """
        return {"seed": self.seed, "experts": {expert: self._of(expert).record for expert in experts}}

    def identity(self, expert: str) -> Hashable:
        """See `fusion_eval.merging.calibration.Calibration`."""
        of = self._of(expert)
        parts = (self.models.architecture, self.models.heads.get(of.task.model_key(of.record["task"])), of.task.head)
        return (*map(repr, parts), self.batch_size, self.device, of.record["fingerprint"])

    @cached_property
    def _loaded(self) -> dict[str, _Loaded]:
        return {}

    def _of(self, expert: str) -> _Loaded:
        if expert not in self._loaded:
            self._loaded[expert] = self._load(expert)
        return self._loaded[expert]

    def _load(self, expert: str) -> _Loaded:
        names = [name for name, task in self.tasks.items() if task.model_key(name) == expert]
        if not names:
            raise ConfigError(
                f"expert {expert!r} has no calibration data, as no task is named {expert!r} or names it as its head: "
                f"add one, or leave the expert out (~modelpool.experts.{expert})"
            )
        name = names[0]
        try:
            evaluated = [self._evaluated(other) for other in names]
            source = self._source(name, evaluated)
            samples = source.load()
            items, left_out = self._choose(samples, [other.load() for other in evaluated])
            batch = samples.collate(items)
            self.tasks[name].check(batch, samples)
            head = self._head(name)
        except FusionEvalError as error:
            raise type(error)(f"calibration data of task {name!r}: {error}") from error
        record = {
            "task": name,
            "split": getattr(source, "split", None),
            "samples": len(items),
            "left_out": left_out,
            "fingerprint": digest_content(batch),
        }
        return _Loaded(self.tasks[name], head, samples, tuple(batch), record)

    def _evaluated(self, name: str) -> DataSource:
        """The data that a task is evaluated on."""
        data: Any = self.tasks[name].data
        return data if self.evaluated is None else replace(data, split=self.evaluated)  # type: ignore[no-any-return]

    def _source(self, name: str, evaluated: Sequence[DataSource]) -> DataSource:
        """The data source of a task's calibration samples."""
        if name in self.data:
            return self.data[name]
        data: Any = self.tasks[name].data
        if getattr(data, "split", None) is None:
            raise ConfigError(
                f"{type(data).__name__} has no splits to choose {self.split!r} from; give other data, as in "
                f"+dataset@calibration.data.{name}=arrays calibration.data.{name}.inputs=train.npz"
            )
        source: DataSource = replace(data, split=self.split)
        if source in evaluated:
            raise ConfigError(f"its split {self.split!r} is evaluated; set calibration.split to another one")
        return source

    def _choose(self, samples: Samples, evaluated: Sequence[Samples]) -> tuple[list[tuple[Any, Any]], int]:
        """Items drawn at random, and how many were passed over because they are evaluated."""
        in_memory = [one for one in evaluated if isinstance(one, TensorSamples)]
        known = {digest_content([inputs]) for one in in_memory for inputs in one.inputs}
        others = [one for one in evaluated if one not in in_memory]
        items: list[tuple[Any, Any]] = []
        left_out = 0
        for index in np.random.default_rng(self.seed).permutation(len(samples)).tolist():
            if max(len(items), left_out) >= self.samples:
                break
            item = samples[index]
            same_place = {digest_content([one[index][0]]) for one in others if index < len(one)}
            if digest_content([item[0]]) in known | same_place:
                left_out += 1
            else:
                items.append(item)
        if left_out >= len(items):
            raise ConfigError(f"{left_out} of {left_out + len(items)} samples are also evaluated; give other data")
        return items, left_out

    def _head(self, name: str) -> nn.Module | None:
        """The head of a task, frozen; None where the backbone returns logits."""
        task = self.tasks[name]
        key = task.model_key(name)
        if task.head is not None and not isinstance(task.head, str):
            head = task.head.load()
        elif key in self.models.heads:
            head = self.models.heads[key].load()
        elif isinstance(task.head, str) and self.models.heads:
            raise ConfigError(f"the model pool has no head {key!r}{suggest(key, self.models.heads)}")
        else:
            return None
        return head.float().eval().requires_grad_(False).to(self.device)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What there is for one expert: its task and head, all samples of the split, the chosen ones, and the record."""

    task: Task
    head: nn.Module | None
    samples: Samples
    batch: Batch
    record: dict[str, Any]
