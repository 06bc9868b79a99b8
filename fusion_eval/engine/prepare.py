"""What must be there before a task can run: its samples and its head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fusion_eval.data import Samples
from fusion_eval.engine.ranks import raise_together
from fusion_eval.errors import TaskError
from fusion_eval.tasks import Task

__all__ = ["prepare"]


def prepare(name: str, task: Task, model: nn.Module) -> tuple[Samples, nn.Module | None]:
    """Load data and head, on all ranks or on none.

    Args:
        name: Of the task.
        task: The task.
        model: The model, which may bring heads along.

    Raises:
        FusionEvalError: the task holds no samples, or wants a head that the model does not bring.
    """
    prepared: tuple[Samples, nn.Module | None] | None = None
    error: Exception | None = None
    try:
        prepared = _load_samples(task), _find_head(name, task, model)
    except Exception as raised:
        error = raised
    raise_together(error)
    assert prepared is not None
    return prepared


def _load_samples(task: Task) -> Samples:
    samples = task.data.load()
    if len(samples) == 0:
        raise TaskError(f"{task.data} holds no samples")
    return samples


def _find_head(name: str, task: Task, model: nn.Module) -> nn.Module | None:
    if task.head is not None and not isinstance(task.head, str):
        return task.head.load()
    heads = getattr(model, "heads", None)
    if not isinstance(heads, (Mapping, nn.ModuleDict)):  # others count attention heads under this name
        heads = {}
    key = task.model_key(name)
    if key in heads:
        return heads[key]
    if isinstance(task.head, str) and heads:  # a model that brings no heads returns logits
        raise TaskError(f"the model has no head {task.head!r}; it has: {', '.join(heads)}")
    return None
