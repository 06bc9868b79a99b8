"""Dealing with lm-evaluation-harness: its index of tasks, its messages, its random numbers."""

from __future__ import annotations

import functools
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion_eval.errors import ConfigError, DataError

__all__ = ["counting_cuts", "find_tasks", "load_tasks", "quiet", "seeded"]

_log = logging.getLogger(__name__)

_YAML = (".yaml", ".yml")


@functools.cache
def find_tasks(names: tuple[str, ...], include_path: str | None) -> Any:
    """The harness' index of tasks; without those that it ships where all names are found elsewhere.

    Args:
        names: Of tasks, groups and tags, or paths of YAML files.
        include_path: A directory with YAML files of more tasks.

    Raises:
        ConfigError: there is no such directory.
    """
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError(f"include_path: {include_path}: no such directory")
    local = TaskManager(include_path=include_path, include_defaults=False)
    if all(name in local.task_index or Path(name).suffix in _YAML for name in names):
        return local
    return TaskManager(include_path=include_path)


def load_tasks(index: Any, name: str) -> dict[str, Any]:
    """Task name to task with its documents: one, or all members of a group or tag.

    Raises:
        ConfigError: there is none of the name.
        DataError: its YAML file, its Python or its data set cannot be read.
    """
    if name not in index.task_index and Path(name).suffix not in _YAML:
        close = get_close_matches(name, index.all_tasks, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"tasks: lm_eval has no task, group or tag {name!r}{hint}")
    try:
        return dict(index.load([name])["tasks"])
    except Exception as error:  # data sets, YAML files and their Python, each with errors of its own
        raise DataError(f"lm_eval cannot load it: {type(error).__name__}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """The harness without its advice, and without the processes that it starts for a bootstrap."""
    logger, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def counting_cuts(name: str) -> Iterator[None]:
    """One warning of how often the harness cut what is too long for the model, in place of one each time.

    Args:
        name: Of the task.
    """
    cuts: list[str] = []

    def count(record: logging.LogRecord) -> bool:
        if "runcat" in record.getMessage():  # "Truncating 7 tokens", "Left truncation applied"
            cuts.append(record.getMessage())
        return record.levelno >= logging.ERROR

    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(count)
    try:
        yield
    finally:
        logger.removeFilter(count)
        logger.setLevel(level)
        if cuts:
            _log.warning("%s: %d requests or batches were cut to fit the model, first: %s", name, len(cuts), cuts[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what tasks and sampling models draw from, and leave it as it was."""
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
