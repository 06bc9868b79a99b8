"""Runs a task on a model with Lightning, exactly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_eval.engine.runner import Runner
    from fusion_eval.engine.sample_memory import SampleMemory

__all__ = ["Runner", "SampleMemory"]

_FILES = {"Runner": "runner", "SampleMemory": "sample_memory"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: to read stored results takes no Lightning."""
    if name not in _FILES:
        raise AttributeError(f"module 'fusion_eval.engine' has no attribute {name!r}")
    return getattr(import_module(f"fusion_eval.engine.{_FILES[name]}"), name)
