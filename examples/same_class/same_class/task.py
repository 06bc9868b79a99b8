"""Whether two samples are of one class, by how alike their features are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from fusion_eval.data import Samples
from fusion_eval.errors import TaskError
from fusion_eval.tasks import Prediction, Task

__all__ = ["SameClass"]


@dataclass(frozen=True)
class SameClass(Task):
    """Two inputs a sample, and the question whether they are of one class.

    The model under test returns features `(n, d)`. The output of a sample is the cosine of its two features, moved to
    [0, 1], so that 0.5 stands for features at right angles. Each sample leaves the columns `target` and `similarity`.

    Args:
        data: Inputs of shape `(2, ...)`; targets are 1 (the same class) or 0.
        metrics: Metric name to its factory; metrics get similarities and targets, both of shape `(n,)`.
        head: A name says which expert of the model pool is this task's own; the head itself, which would make logits of
            features, is not applied.
    """

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics."""
        return {name: factory() for name, factory in self.metrics.items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse targets that are neither 0 nor 1, and inputs that are no pairs."""
        pairs, targets = batch
        if not isinstance(pairs, Tensor) or pairs.ndim < 3 or pairs.shape[1] != 2:
            raise TaskError(
                f"inputs should be pairs of shape (n, 2, ...), found {getattr(pairs, 'shape', type(pairs))}"
            )
        if not set(targets.tolist()) <= {0, 1}:
            raise TaskError(f"targets should be 0 or 1, found {sorted(set(targets.tolist()))}")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Similarity of the features of each pair."""
        pairs, targets = batch
        features = model(pairs.flatten(0, 1))
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise TaskError(f"the model should return features of shape (n, d), found {type(features).__name__}")
        first, second = features.float().unflatten(0, (-1, 2)).unbind(1)
        cosine = functional.cosine_similarity(first, second)
        similarity = ((1 + cosine) / 2).clamp(0, 1)  # torchmetrics takes a batch with 1.0000001 in it for logits
        return Prediction(similarity, targets, {"target": targets, "similarity": similarity})

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Hits for the accuracy at a threshold; the area under the curve is no mean, so it gets a bootstrap."""
        if type(metric) is BinaryAccuracy:
            return np.asarray((columns["similarity"] > metric.threshold) == (columns["target"] == 1))
        return None
