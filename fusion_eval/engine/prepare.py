"""What must be there before a task can run: its samples, what tells their content, and its head."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from torch import nn

from fusion_eval.data import DataCache, Embedded, Samples, TensorSamples
from fusion_eval.data.transform import TransformedSamples
from fusion_eval.engine.code import UndescribableError, code_versions
from fusion_eval.engine.fingerprint import remember_digest
from fusion_eval.engine.ranks import raise_together
from fusion_eval.engine.shared import Kept, Shared
from fusion_eval.errors import FusionEvalError, TaskError
from fusion_eval.report.atomic import atomic_file
from fusion_eval.stamps import SETTLED
from fusion_eval.tasks import Task

__all__ = ["find_head", "fingerprint_samples", "load_samples", "prepare"]

_samples: Shared[Samples] = Shared(limit=256)
_heads: Shared[nn.Module] = Shared(limit=256)
_digests: dict[str, str] = {}


def prepare(
    name: str, task: Task, model: nn.Module, share: bool = True, cache: DataCache | None = None
) -> tuple[Kept[Samples], nn.Module | None]:
    """Load data and head, on all ranks or on none.

    Args:
        name: Of the task.
        task: The task.
        model: The model, which may bring heads along.
        share: Whether what another task or job of this process has loaded will do, if the files are as they were.
        cache: Where embedded data that was built by another process may be; None: nowhere.

    Raises:
        FusionEvalError: the task holds no samples, or wants a head that the model does not bring.
    """
    prepared: tuple[Kept[Samples], nn.Module | None] | None = None
    error: Exception | None = None
    try:
        prepared = load_samples(task, share, cache), find_head(name, task, model, share)
    except Exception as raised:
        error = raised
    raise_together(error)
    assert prepared is not None
    return prepared


def fingerprint_samples(kept: Kept[Samples], directory: Path | None) -> str:
    """`Samples.fingerprint()`, which reads all the data, once for as long as the files are the same.

    Args:
        kept: The loaded samples.
        directory: Where fingerprints are remembered for other processes; None: nowhere.
    """
    samples = kept.thing
    if kept.stamp is None:
        if type(samples) is TensorSamples:  # a class of its own knows better
            return remember_digest(samples, {"inputs": samples.inputs, "targets": samples.targets}, samples.fingerprint)
        return samples.fingerprint()
    try:
        transform = samples.identity if isinstance(samples, TransformedSamples) else None
        depends_on = [kept.config, kept.stamp.text, transform, code_versions(type(samples))]
    except UndescribableError:
        return samples.fingerprint()
    key = hashlib.blake2b(json.dumps(depends_on).encode(), digest_size=16).hexdigest()
    file = None if directory is None else directory / key
    if key not in _digests and file is not None:
        with suppress(OSError, UnicodeDecodeError):
            _digests[key] = file.read_text()
    if len(_digests.get(key, "")) != 32:
        _digests[key] = samples.fingerprint()
        if file is not None and time.time() - kept.stamp.changed_at > SETTLED:
            with suppress(FusionEvalError), atomic_file(file) as opened:
                opened.write(_digests[key].encode())
    return _digests[key]


def load_samples(task: Task, share: bool, cache: DataCache | None = None) -> Kept[Samples]:
    """The samples of a task, and which files they are from.

    Args:
        task: The task.
        share: As `prepare` takes it.
        cache: Likewise.

    Raises:
        FusionEvalError: they cannot be loaded, or there are none.
    """
    load = partial(task.data.load, cache) if type(task.data) is Embedded else task.data.load
    kept = _samples.get(task.data, load) if share else Kept(load())
    if len(kept.thing) == 0:
        raise TaskError(f"{task.data} holds no samples")
    return kept


def find_head(name: str, task: Task, model: nn.Module, share: bool) -> nn.Module | None:
    """The head of a task: its own, or that which the model brings for it. See `prepare`."""
    if task.head is not None and not isinstance(task.head, str):
        return _heads.get(task.head, task.head.load).thing if share else task.head.load()
    heads = getattr(model, "heads", None)
    if not isinstance(heads, (Mapping, nn.ModuleDict)):  # others count attention heads under this name
        heads = {}
    key = task.model_key(name)
    if key in heads:
        return heads[key]
    if isinstance(task.head, str) and heads:  # a model that brings no heads returns logits
        raise TaskError(f"the model has no head {task.head!r}; it has: {', '.join(heads)}")
    return None
