"""The task pool that Lightning runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fusion_eval.engine import Runner, SampleMemory
from fusion_eval.engine.trainer import quiet
from fusion_eval.errors import ConfigError, FusionEvalError, suggest
from fusion_eval.report import Report, TaskFailure, TaskResult
from fusion_eval.taskpool.base import BaseTaskPool
from fusion_eval.tasks import Task

__all__ = ["TaskPool"]

_RESERVED = ("mean", "normalised", "worst")


@dataclass(frozen=True, eq=False)
class TaskPool(BaseTaskPool):
    """Named tasks, each run on the model under test by Lightning's test loop.

    Args:
        tasks: Task name to task, in the order of the report.

    Raises:
        ConfigError: if there is no task, or an entry is none.

    Example:
        >>> from functools import partial
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> from fusion_eval.data import Arrays
        >>> from fusion_eval.tasks import Classification
        >>> task = Classification(Arrays("digits.npz"), {"accuracy": partial(MulticlassAccuracy, average="micro")})
        >>> TaskPool({"digits": task}) == TaskPool.from_config(TaskPool({"digits": task}).to_config())
        True
    """

    tasks: Mapping[str, Task]

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Mapping) or not self.tasks:
            raise ConfigError("tasks: a pool needs at least one, as a mapping of a name to a task")
        for name, task in self.tasks.items():
            if name in _RESERVED:
                raise ConfigError(f"tasks.{name}: the name is taken by an aggregate of the report; choose another")
            if not isinstance(task, Task):
                raise ConfigError(
                    f"tasks.{name}: expected a task such as fusion_eval.tasks.Classification, found {task!r}"
                )

    def select(self, names: Iterable[str]) -> TaskPool:
        """The pool of only these tasks.

        Raises:
            ConfigError: if there is no task of a name.
        """
        for name in (names := list(names)):
            if name not in self.tasks:
                raise ConfigError(f"no task {name!r}{suggest(name, self.tasks)}")
        return TaskPool({name: self.tasks[name] for name in names})

    def expert_of(self, task: str) -> str:
        """The name of the expert, and of the head, that belongs to a task."""
        return self.tasks[task].model_key(task)

    def evaluate(
        self,
        model: nn.Module,
        runner: Runner | None = None,
        *,
        on_error: Literal["raise", "record"] = "raise",
        on_result: Callable[[str, TaskResult | TaskFailure], Any] | None = None,
        label: str = "model",
        memory: SampleMemory | None = None,
        coming: Iterable[nn.Module] = (),
    ) -> Report:
        """Evaluate a model on every task.

        Args:
            model: Features or logits out; with a mapping `heads` of task names to modules if it brings heads along.
            runner: Device, batch size and the like; None: the CPU with the defaults of `Runner`.
            on_error: Whether a failing task stops the evaluation, or is recorded while the others still run.
            on_result: Called after each task with its name and what became of it.
            label: What the progress display calls the model.
            memory: What is known of samples that were evaluated before; they do not go through the model again.
            coming: Models that are going to be evaluated next, in this order: see `Runner.run`.

        Returns:
            `{task: {metric: value}}`, with standard errors, samples and failures as attributes.

        Raises:
            ConfigError: if `on_error` is neither.
            FusionEvalError: from a failing task, if `on_error` is "raise"; `on_result` has been told before.
        """
        if on_error not in ("raise", "record"):
            raise ConfigError(f"on_error: expected raise or record, found {on_error!r}")
        runner = runner or Runner()
        results: dict[str, TaskResult] = {}
        failures: dict[str, TaskFailure] = {}
        with quiet():  # once for all tasks
            for name, task in self.tasks.items():
                try:
                    results[name] = outcome = runner.run(name, task, model, label, memory=memory, coming=coming)
                except Exception as error:
                    failures[name] = failure = TaskFailure.from_exception(error)
                    if on_result is not None:
                        on_result(name, failure)
                    if on_error == "record":
                        continue
                    if isinstance(error, FusionEvalError):
                        raise type(error)(f"task {name!r}: {error}") from error
                    raise
                if on_result is not None:
                    on_result(name, outcome)
                runner.show(outcome)
        return Report(results, failures)

    def evaluate_group(self, models: Sequence[nn.Module], runner: Runner | None = None) -> list[Report]:
        """Evaluate several models of one architecture on every task, as many of them at once as is fastest.

        The numbers are those that `evaluate` gives for each of them, up to float32 rounding; see `Runner`'s `group`.

        Args:
            models: As for `evaluate`.
            runner: As for `evaluate`.

        Raises:
            FusionEvalError: from a failing task.
        """
        runner = runner or Runner()
        return [self.evaluate(model, runner, coming=models[turn + 1 :]) for turn, model in enumerate(models)]
