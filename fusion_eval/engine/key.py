"""What a result depends on: for this process, and in words that mean the same to every one on every machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torchmetrics import Metric

from fusion_eval.data import DataSource, Samples
from fusion_eval.data.digest import digest_content
from fusion_eval.engine.code import UndescribableError
from fusion_eval.engine.description import Description
from fusion_eval.engine.evaluate import evaluate
from fusion_eval.engine.fingerprint import code_of, describe_architecture, fingerprint_config
from fusion_eval.engine.subject import Subject
from fusion_eval.errors import ConfigError
from fusion_eval.tasks import Task

__all__ = ["code_of_source", "dependencies", "process_key"]

_EVALUATOR = (evaluate, pl.Trainer, Metric, nn.Module, np.ndarray)
"""Our code that decides the numbers, and something of each package whose version may decide a digit."""


def process_key(
    fingerprints: dict[str, str],
    task: Task,
    metrics: Mapping[str, Metric],
    subject: Subject,
    indices: np.ndarray,
    settings: dict[str, Any],
) -> tuple[Hashable, ...] | None:
    """All that a result depends on, within this process, where also a class defined in a function can be told apart.

    Args:
        fingerprints: Of weights, head and data.
        task: The task.
        metrics: The task's metrics.
        subject: The model under test, and the head.
        indices: Which samples are evaluated.
        settings: What else decides the numbers (precision, seed, ...).

    Returns:
        None where a part of the task (a lambda) cannot be described.
    """
    try:
        task_settings = task.settings()
    except ConfigError:
        return None
    head = nn.Identity() if subject.head is None else subject.head
    architecture = [subject.architecture, describe_architecture(head)]
    described = fingerprint_config(fingerprints, architecture, task_settings, settings, digest_content([indices]))
    return (described, code_of(subject.model), code_of(head), *map(type, metrics.values()))


def dependencies(
    fingerprints: dict[str, str],
    task: Task,
    subject: Subject,
    samples: Samples,
    indices: np.ndarray,
    settings: dict[str, Any],
) -> dict[str, Any] | None:
    """All that the result of a task depends on, in values that JSON can hold.

    Names, paths, the batch size and the number and kind of devices are not among it: they do not decide the numbers.

    Args:
        fingerprints: Of weights, head and data.
        task: The task.
        subject: The model under test, and the head that is put on it, if any.
        samples: The loaded data.
        indices: Which of them are evaluated.
        settings: What else decides the numbers (precision, seed, ...).

    Returns:
        None where a part (a lambda, a class defined in a function) means something in this process only.
    """
    described = Description()
    try:
        behaviour = described.add(subject.backbone, subject.head, task.metrics)
        for code in (*_EVALUATOR, type(task), type(samples), *code_of_source(task.data)):
            described.name(code)
        return {
            **fingerprints,
            "samples": digest_content([indices]),
            "task": task.settings(),
            "settings": {**settings, "matmul": torch.get_float32_matmul_precision()},
            "behaviour": behaviour,
            "code": described.code,
        }
    except (ConfigError, UndescribableError):
        return None


def code_of_source(data: DataSource) -> Iterator[Callable[..., Any]]:
    """The classes and functions of a source; what they make of the files on disk is in the fingerprint of the data."""
    yield type(data)
    if is_dataclass(data):
        for field in fields(data):
            value = getattr(data, field.name)
            while isinstance(value, functools.partial):
                value = value.func
            if callable(value):
                yield value if hasattr(value, "__qualname__") else type(value)
