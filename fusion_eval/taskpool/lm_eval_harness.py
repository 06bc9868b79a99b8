"""Dealing with lm-evaluation-harness: its index of tasks, its view of a model, its messages, its random numbers."""

from __future__ import annotations

import functools
import logging
import os
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fusion_eval.errors import ConfigError, DataError

__all__ = ["find_tasks", "load_tasks", "quiet", "seeded", "wrap"]

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


def load_tasks(index: Any, name: str, wanted: Collection[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """Task name to task with its documents: one, or all members of a group, a tag or a file.

    Args:
        index: What `find_tasks` returns.
        name: Of a task, group or tag, or the path of a YAML file.
        wanted: Only members of these names; None: all. One task that is not among them is not loaded.
        seed: Of tasks that shuffle their documents.

    Raises:
        ConfigError: there is none of the name.
        DataError: its YAML file, its Python or its data set cannot be read.
    """
    if name not in index.task_index and Path(name).suffix not in _YAML:
        close = get_close_matches(name, index.all_tasks, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"tasks: lm_eval has no task, group or tag {name!r}{hint}")
    if wanted is not None and name in index.all_subtasks:
        return {}
    try:
        with seeded(seed):
            loaded = index.load([name])["tasks"]
    except Exception as error:  # data sets, YAML files and their Python, each with errors of its own
        raise DataError(f"lm_eval cannot load it: {type(error).__name__}: {error}") from error
    return {member: task for member, task in loaded.items() if wanted is None or member in wanted}


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


def wrap(model: nn.Module, **settings: Any) -> Any:
    """A language model of transformers as the harness knows models.

    It has one attribute more, `cut`: the texts of the requests that were too long for the model and lost tokens, a
    context and what it continues with, or a prompt alone.

    Args:
        model: The language model.
        **settings: Of the harness' `HFLM`.

    Raises:
        ConfigError: lm_eval is not installed.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError('tasks of lm_eval need an extra: pip install "fusion-eval[lm]"') from error

    class Watched(HFLM):  # type: ignore[misc]
        cut: set[tuple[str, ...]]

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            for texts, read, scored in requests:
                fits = len(read) + len(scored) <= self.max_length + 1  # the last token is not read
                if texts is not None and not fits:  # windows of a long text, which are cut to measure, have no texts
                    self.cut.add(tuple(texts))
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

        def tok_batch_encode(
            self, strings: Any, *args: Any, left_truncate_len: int | None = None, **kwargs: Any
        ) -> Any:
            if left_truncate_len:
                self.cut |= {(text,) for text in strings if len(self.tok_encode(text)) > left_truncate_len}
            return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **kwargs)

    watched = Watched(pretrained=model, **settings)
    watched.cut = set()
    return watched


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
