"""Single-label classification of any input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Samples
from fusion_eval.data.inputs import columns_of
from fusion_eval.errors import TaskError, few
from fusion_eval.tasks.metrics import CrossEntropy, TopKAccuracy, target_rank
from fusion_eval.tasks.outputs import forward, logits_of
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(Task):
    """One class out of `c` for each sample.

    The model under test returns logits `(n, c)`, or features `(n, d)` if there is a head; a Hugging Face output or a
    mapping with `logits` (with a head: `image_embeds`, `pooler_output`, ...) will do as well. Metrics get
    `(logits, targets)`. Each sample leaves the columns `target`, `prediction`, `loss` (cross entropy in nats),
    `confidence` (softmax of the predicted class), `rank` (how many classes the target's logit stands behind), and those
    of its input (see `fusion_eval.data.inputs`).

    Args:
        data: Where the samples come from; targets are integers in `[0, c)`.
        metrics: Metric name to its factory, which gets `num_classes` if it takes it.
        head: See `Task`.
        num_classes: `c`, needed only where the data does not name its classes.

    Example:
        >>> from functools import partial
        >>> from fusion_eval.data import Embedded
        >>> Classification(Embedded("mnist"), {"accuracy": partial(MulticlassAccuracy, average="micro")}).primary
        'accuracy'
    """

    num_classes: int | None = None

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics for the classes of `samples`.

        Raises:
            TaskError: the data names another number of classes than `num_classes`, or none at all.
        """
        named = samples.class_names
        if named is not None and self.num_classes not in (None, len(named)):
            raise TaskError(f"num_classes is {self.num_classes}, but the data names {len(named)} classes: {few(named)}")
        return self.fresh_metrics(num_classes=self._count_classes(samples))

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are no class."""
        classes = self._count_classes(samples)
        targets = batch[1]
        if not isinstance(targets, Tensor) or targets.dtype.is_floating_point or targets.ndim != 1:
            raise TaskError(f"targets should be integers, one a sample; found {targets!r:.100}")
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
            wrong = targets[(targets < 0) | (targets >= classes)][0]
            raise TaskError(f"target {int(wrong)} is outside the {classes} classes [0, {classes - 1}]")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Logits, and what is kept of each sample."""
        inputs, targets = batch
        targets = targets.long()
        logits = logits_of(forward(model, inputs), head, inputs).float()
        expected = (len(targets), self._count_classes(samples))
        if tuple(logits.shape) != expected:
            of_head = "; the head is made for other classes than those of the data"
            hint = of_head if head else "; if these are features, the task needs a head"
            raise TaskError(
                f"logits should have shape {expected} (samples, classes), found {tuple(logits.shape)}{hint}"
            )
        confidence, prediction = logits.softmax(dim=-1).max(dim=-1).values, logits.argmax(dim=-1)
        columns = {
            "target": targets,
            "prediction": prediction,
            "loss": functional.cross_entropy(logits, targets, reduction="none"),
            "confidence": confidence,
            "rank": target_rank(logits, targets),
            **columns_of(inputs),
        }
        return Prediction(logits, targets, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Losses for the cross entropy, hits for micro-averaged and top-k accuracy."""
        if isinstance(metric, CrossEntropy):
            return columns["loss"]
        if isinstance(metric, TopKAccuracy):
            return np.asarray(columns["rank"] < metric.k)
        settings = ("average", "top_k", "ignore_index")
        if type(metric) is MulticlassAccuracy and [getattr(metric, name) for name in settings] == ["micro", 1, None]:
            return np.asarray(columns["rank"] == 0)
        return None

    def _count_classes(self, samples: Samples) -> int:
        if self.num_classes is not None:
            return self.num_classes
        if samples.class_names is None:
            raise TaskError("the data does not name its classes; set num_classes of the task")
        return len(samples.class_names)
