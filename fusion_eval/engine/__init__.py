"""Runs a task on a model with Lightning, exactly."""

from fusion_eval.engine.runner import Runner

__all__ = ["Runner"]
