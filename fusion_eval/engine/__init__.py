"""Runs a task on a model with Lightning, exactly."""

from fusion_eval.engine.runner import Runner
from fusion_eval.engine.sample_memory import SampleMemory

__all__ = ["Runner", "SampleMemory"]
