"""fusion_eval: know how good a merged model is, on every task at once, next to the experts it was made from."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_eval.config import build, compose
    from fusion_eval.engine import Runner
    from fusion_eval.merging import Average, Base, Expert, TaskArithmetic, Ties
    from fusion_eval.models import MergedModel, ModelPool
    from fusion_eval.report import Report
    from fusion_eval.taskpool import BaseTaskPool, DummyTaskPool, TaskPool, evaluate_references
    from fusion_eval.tasks import Classification

__all__ = [
    "Average",
    "Base",
    "BaseTaskPool",
    "Classification",
    "DummyTaskPool",
    "Expert",
    "MergedModel",
    "ModelPool",
    "Report",
    "Runner",
    "TaskArithmetic",
    "TaskPool",
    "Ties",
    "build",
    "compose",
    "evaluate_references",
]

_ROOMS = {
    "config": ("build", "compose"),
    "engine": ("Runner",),
    "merging": ("Average", "Base", "Expert", "TaskArithmetic", "Ties"),
    "models": ("MergedModel", "ModelPool"),
    "report": ("Report",),
    "taskpool": ("BaseTaskPool", "DummyTaskPool", "TaskPool", "evaluate_references"),
    "tasks": ("Classification",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `fusion-eval --help` must not wait for torch."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"fusion_eval.{room}"), name)
    raise AttributeError(f"module 'fusion_eval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
