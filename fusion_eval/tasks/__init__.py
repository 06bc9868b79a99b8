"""Kinds of tasks, one file a kind. A task is a value: data, how a model is run on it, and metrics."""

from fusion_eval.tasks.calibration import Calibration
from fusion_eval.tasks.classification import Classification
from fusion_eval.tasks.metrics import BalancedAccuracy, CalibrationError, CrossEntropy, TopKAccuracy
from fusion_eval.tasks.task import Head, MetricFactory, Prediction, Task

__all__ = [
    "BalancedAccuracy",
    "Calibration",
    "CalibrationError",
    "Classification",
    "CrossEntropy",
    "Head",
    "MetricFactory",
    "Prediction",
    "Task",
    "TopKAccuracy",
]
