"""Tasks of lm-evaluation-harness, on a merged model in memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from fusion_eval.data.tokenizer import identify_tokenizer, load_tokenizer
from fusion_eval.engine import Runner
from fusion_eval.engine.fingerprint import fingerprint_weights
from fusion_eval.errors import ConfigError, FusionEvalError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.report import Report, TaskFailure, TaskResult
from fusion_eval.taskpool.base import BaseTaskPool
from fusion_eval.taskpool.lm_eval_harness import find_tasks, load_tasks, quiet, seeded, wrap
from fusion_eval.taskpool.lm_eval_key import dependencies
from fusion_eval.taskpool.lm_eval_results import task_result

__all__ = ["LMEvalTaskPool"]

_PRECISIONS = {"32-true": None, "bf16-mixed": "bfloat16", "16-mixed": "float16"}
_DEVICES = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True, eq=False)
class LMEvalTaskPool(BaseTaskPool):
    """The bridge to lm-evaluation-harness (`pip install "fusion-eval[lm]"`).

    The harness runs its own tasks with its own prompts, few-shot examples and metrics, on the model that is in memory.
    Its metrics and their standard errors become entries of the report, one a task (of a group or tag: one a member);
    the log of each document becomes a row of the per-sample file. A metric behind a filter other than "none" is called
    `metric@filter`. Neither its cache of responses, whose keys know the prompt but not the weights, nor that of
    requests is used; results are kept in the result store of the runner, like those of any task. Everything runs in
    one process.

    Args:
        tasks: Names of tasks, groups or tags, or paths of their YAML files.
        tokenizer: A directory with a tokenizer's files, or an id on the hub: as a rule that of the base model.
        num_fewshot: Examples in the prompt, of tasks that do not insist on none; None: what each task says.
        limit: Only the first so many documents a task, or below 1 that share of them; None: all.
        include_path: A directory with YAML files of more tasks. Where all tasks are found in it, the 14,000 that the
            harness ships are not indexed, which takes it 14 seconds.
        only: Of the members of groups, tags and files the tasks of these names; None: all.
        experts: Task name to the expert it belongs to, where they have different names.
        max_length: How many tokens the model attends to; None: what its configuration says.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: What stands before every prompt.
        gen_kwargs: Settings of generation that override those of the tasks.
        fewshot_seed: Draws the examples in the prompts; the harness' own default is 1234.
        device: Where the model runs, in Lightning's words: "cpu", "gpu" ("cuda"), "mps"; "auto": a GPU if there is one.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        confirm_run_unsafe_code: Whether tasks that run code which the model has written may do so.

    Raises:
        ConfigError: there is no task, or a setting is out of range.

    Example:
        >>> LMEvalTaskPool(["ai2_arc", "piqa"], tokenizer="gpt2", num_fewshot=5).select(["arc_easy"]).only
        ['arc_easy']
    """

    tasks: Sequence[str]
    tokenizer: str
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = None
    only: Sequence[str] | None = None
    experts: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    fewshot_seed: int = 1234
    device: str = "auto"
    precision: str = "32-true"
    confirm_run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str) or not self.tasks or not all(isinstance(name, str) for name in self.tasks):
            raise ConfigError(f"tasks: give a list of names of lm_eval tasks, such as [arc_easy], not {self.tasks!r}")
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"precision: {self.precision!r}; lm_eval runs {', '.join(_PRECISIONS)}")
        if self.device not in _DEVICES:
            raise ConfigError(f"device: {self.device!r}; choose one of {', '.join(_DEVICES)}")
        if self.limit is not None and not self.limit > 0:
            raise ConfigError(f"limit: expected a number above 0, found {self.limit!r}")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError(f"num_fewshot: expected an integer >= 0, found {self.num_fewshot!r}")

    def select(self, names: Iterable[str]) -> LMEvalTaskPool:
        """The pool of only these tasks, which may be members of its groups, tags and files."""
        return replace(self, only=list(names))

    def expert_of(self, task: str) -> str:
        """The name of the expert that belongs to a task."""
        return self.experts.get(task, task)

    def evaluate(
        self,
        model: nn.Module,
        runner: Runner | None = None,
        *,
        on_error: Literal["raise", "record"] = "raise",
        on_result: Callable[[str, TaskResult | TaskFailure], Any] | None = None,
        label: str = "model",
    ) -> Report:
        """Evaluate a language model of transformers on every task.

        Args:
            model: A causal or a sequence-to-sequence language model, or a `MergedModel` of one.
            runner: Of it only `batch_size`, `bootstrap` (resamples behind standard errors; 0: none), `seed`, `store`
                and `progress` are used; None: the defaults of `Runner`.
            on_error: As for `TaskPool.evaluate`.
            on_result: Likewise.
            label: Likewise.

        Raises:
            ConfigError: `on_error` is neither, the runner has several processes, there is no such task, or lm_eval is
                not installed.
            FusionEvalError: from a failing task, if `on_error` is "raise"; `on_result` has been told before.
        """
        if on_error not in ("raise", "record"):
            raise ConfigError(f"on_error: expected raise or record, found {on_error!r}")
        runner = runner or Runner()
        if runner.processes > 1:
            raise ConfigError(f"lm_eval tasks run in one process, not in {runner.processes}: set trainer.devices=1")
        results: dict[str, TaskResult] = {}
        failures: dict[str, TaskFailure] = {}

        def attempt(name: str, run: Callable[[], Any]) -> Any:
            try:
                return run()
            except Exception as error:
                failures[name] = TaskFailure.from_exception(error)
                if on_result is not None:
                    on_result(name, failures[name])
                if on_error == "raise":
                    kind = type(error) if isinstance(error, FusionEvalError) else TaskError
                    raise kind(f"task {name!r}: {error}") from error
                return None

        with quiet(), self._wrapped(model, runner) as wrapped:
            manager = find_tasks(tuple(self.tasks), self.include_path)
            for request in self.tasks:
                load = partial(load_tasks, manager, request, self._wanted(request), runner.seed)
                for name, task in (attempt(request, load) or {}).items():
                    result = attempt(name, partial(self._run, name, task, model, wrapped, runner, label))
                    if result is not None:
                        results[name] = result
                        if on_result is not None:
                            on_result(name, result)
                        runner.show(result)
        return Report(results, failures)

    def _wanted(self, request: str) -> Sequence[str] | None:
        """Of which tasks among those that a request stands for results are wanted; None: of all."""
        return None if self.only is None or request in self.only else self.only

    def _run(self, name: str, task: Any, model: nn.Module, wrapped: Any, runner: Runner, label: str) -> TaskResult:
        """Let the harness run one task, unless its result is known."""
        if isinstance(model, MergedModel):
            model.adapt(self.expert_of(name))
        self._set_up(task)
        fingerprints = {
            "weights": fingerprint_weights(model),
            "tokenizer": identify_tokenizer(self.tokenizer),
        }

        def run() -> TaskResult:
            from lm_eval.evaluator import evaluate

            started = time.perf_counter()
            wrapped.cut.clear()
            with seeded(runner.seed):
                done = evaluate(
                    wrapped,
                    {"tasks": {name: task}},
                    limit=self.limit,
                    bootstrap_iters=runner.bootstrap,
                    system_instruction=self.system_instruction,
                    apply_chat_template=self.apply_chat_template,
                    fewshot_as_multiturn=self.apply_chat_template,
                    confirm_run_unsafe_code=self.confirm_run_unsafe_code,
                )
            return task_result(name, done, wrapped.cut, time.perf_counter() - started, fingerprints)

        def depends_on() -> dict[str, Any] | None:
            with seeded(runner.seed):
                return dependencies(task, wrapped.model, fingerprints, self._settings(runner))

        return runner.recall_or(run, depends_on, f"{label} on {name}")

    def _settings(self, runner: Runner) -> dict[str, Any]:
        """What decides the numbers beside model, tokenizer and task."""
        names = ("limit", "max_length", "apply_chat_template", "system_instruction", "fewshot_seed", "precision")
        return {"seed": runner.seed, "bootstrap": runner.bootstrap, **{name: getattr(self, name) for name in names}}

    def _set_up(self, task: Any) -> None:
        """Few-shot and generation settings, by the rules of `lm_eval.simple_evaluate`."""
        own = task.get_config("num_fewshot")
        if own is None or (own != 0 and self.num_fewshot is not None):
            task.set_config("num_fewshot", self.num_fewshot or 0)
        if self.gen_kwargs and task.get_config("output_type") == "generate_until":
            task.set_config("generation_kwargs", dict(self.gen_kwargs), update=True)
        task.set_fewshot_seed(self.fewshot_seed)

    @contextmanager
    def _wrapped(self, model: nn.Module, runner: Runner) -> Iterator[Any]:
        """The model as the harness knows models, on its device and in eval mode."""
        from transformers import PreTrainedModel

        backbone: nn.Module = getattr(model, "backbone", model)
        if not isinstance(backbone, PreTrainedModel):
            raise TaskError(f"lm_eval runs language models of transformers, found {type(backbone).__name__}")
        modes = {part: part.training for part in backbone.modules()}
        nn.Module.to(backbone, self._torch_device).train(False)
        try:
            yield wrap(
                backbone,
                tokenizer=copy.deepcopy(load_tokenizer(self.tokenizer)),  # it is given a pad token
                batch_size=runner.batch_size,
                max_length=self.max_length,
                mixed_precision_dtype=_PRECISIONS[self.precision],
            )
        finally:
            for part, training in modes.items():
                part.training = training

    @property
    def _torch_device(self) -> str:
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cuda" if self.device == "gpu" else self.device
