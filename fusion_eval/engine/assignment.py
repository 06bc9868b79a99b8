"""What one pass is about: a task, a model, and the samples they meet on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.engine.subject import Subject
from fusion_eval.tasks import Task

__all__ = ["Assignment"]


@dataclass(frozen=True, eq=False)
class Assignment:
    """One model to be evaluated on one task.

    Attributes:
        name: Of the task.
        task: The task.
        metrics: Its metrics, fresh.
        subject: The model under test, and the head.
        samples: The loaded data.
        indices: Shape `(n,)`: which samples are evaluated, over all ranks.
        fingerprints: Of weights, head and data.
        key: All that the result depends on within this process; None: that cannot be told.
    """

    name: str
    task: Task
    metrics: dict[str, Metric]
    subject: Subject
    samples: Samples
    indices: np.ndarray
    fingerprints: dict[str, str]
    key: Hashable | None
