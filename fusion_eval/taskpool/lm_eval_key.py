"""What the result of a task of lm-evaluation-harness depends on: the key under which it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fusion_eval.data.digest import digest_content
from fusion_eval.engine.code import UndescribableError
from fusion_eval.engine.description import Description
from fusion_eval.taskpool.lm_eval_results import task_result

__all__ = ["dependencies"]

_WHERE_DATA_LIES = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
"""Entries of a task's config that decide nothing beside the documents themselves."""


def dependencies(
    task: Any, backbone: nn.Module, fingerprints: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """All that the result of a task depends on, in values that JSON can hold.

    Prompts are made of the documents, those in examples included, by the task's config and code. Its code is that of
    the harness, known by its version, and that of files which the user's own YAML names, known by their content.

    Args:
        task: The harness' task, with its few-shot and generation settings.
        backbone: The language model, in eval mode.
        fingerprints: Of weights and tokenizer.
        settings: What else decides the numbers (precision, seed, ...).

    Returns:
        None where a part (a metric that is a lambda) means something in this process only.
    """
    from lm_eval.evaluator import evaluate

    config = task.config.to_dict(keep_callable=True)
    for key in _WHERE_DATA_LIES:
        config.pop(key, None)
    config.get("metadata", {}).pop("config_source", None)  # the path of its YAML
    examples = task.fewshot_docs() if config.get("num_fewshot") else ()
    described = Description()
    try:
        behaviour = described.add(backbone)
        for code in (evaluate, task_result, type(task), *_functions(config)):
            described.name(code)
        return {
            **fingerprints,
            "documents": digest_content(map(_plain, task.eval_docs)),
            "examples": digest_content(map(_plain, examples)),
            "task": json.loads(_plain(config)),
            "settings": {**settings, "matmul": torch.get_float32_matmul_precision()},
            "behaviour": behaviour,
            "code": described.code,
        }
    except UndescribableError:
        return None


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    """The functions in a config."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _functions(item)
    elif callable(value):
        yield value


def _plain(value: Any) -> str:
    """As text: a function by its name; what else JSON does not know, such as a picture, by its repr, as equals may be
    told apart.
    """
    return json.dumps(value, sort_keys=True, default=lambda part: getattr(part, "__qualname__", None) or repr(part))
