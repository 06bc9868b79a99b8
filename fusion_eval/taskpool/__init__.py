"""Collections of tasks that evaluate a merged model, and their YAML forms."""

from fusion_eval.taskpool.base import BaseTaskPool
from fusion_eval.taskpool.dummy import DummyTaskPool
from fusion_eval.taskpool.lm_eval import LMEvalTaskPool
from fusion_eval.taskpool.pool import TaskPool
from fusion_eval.taskpool.references import evaluate_references

__all__ = ["BaseTaskPool", "DummyTaskPool", "LMEvalTaskPool", "TaskPool", "evaluate_references"]
