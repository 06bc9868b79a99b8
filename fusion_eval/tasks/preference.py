"""Reward models: which of two answers is better."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward, logits_of
from fusion_eval.tasks.task import Prediction, Task
from fusion_eval.tasks.texts import require_texts, truncated

__all__ = ["Preference", "PreferenceAccuracy", "PreferenceLoss", "PreferenceMargin"]

_TEXTS = ("chosen", "rejected")


@dataclass(frozen=True)
class Preference(Task):
    """Pairs of answers, of which people preferred one: a reward model should give that one the higher score.

    The model under test returns one score a text, `(n, 1)` (`AutoModelForSequenceClassification` with `num_labels=1`),
    or features if there is a head. Each of the two texts is one call of the model. Metrics get scores `(n, 2)`, of the
    chosen and of the rejected text, and nothing else; `PreferenceAccuracy` says what a tie counts. Each sample leaves
    the columns `chosen` and `rejected` (scores), `margin` (their difference), `truncated` (one of the texts was cut)
    and `target`, which may be anything that helps to tell pairs apart, such as the subset of a benchmark.

    Args:
        data: Inputs are those of a `TokenizedTexts` with the texts `chosen` and `rejected`.
        metrics: See `Task`.
        head: See `Task`.
    """

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics."""
        return {name: factory() for name, factory in self.metrics.items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse inputs that are no pairs."""
        require_texts(batch[0], _TEXTS)

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """The score of both texts, and what is kept of each pair."""
        texts, targets = batch
        scores = torch.cat([_scores(model, head, texts[name]) for name in _TEXTS], dim=1)
        chosen, rejected = scores.unbind(dim=1)
        columns: dict[str, Tensor | list[str]] = {
            "target": list(targets) if isinstance(targets, tuple) else targets,
            "chosen": chosen,
            "rejected": rejected,
            "margin": chosen - rejected,
            **truncated(texts),
        }
        return Prediction(scores, torch.zeros_like(chosen), columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Points, margins and losses: all three metrics are means over pairs."""
        if isinstance(metric, PreferenceMetric):
            return metric.values(torch.from_numpy(columns["margin"])).double().numpy()
        return None


class PreferenceMetric(Metric):
    """The mean over pairs of some function of the margin."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def values(self, margins: Tensor) -> Tensor:
        """What each of `n` pairs contributes, from margins of shape `(n,)` to the same shape."""

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add a batch: `scores` of shape `(n, 2)`, chosen and rejected; `target` is not looked at."""
        self.total += self.values(scores[:, 0] - scores[:, 1]).sum(dtype=torch.float64)
        self.count += len(scores)

    def compute(self) -> Tensor:
        """The mean over all pairs so far."""
        return self.total / self.count


class PreferenceAccuracy(PreferenceMetric):
    """Share of pairs whose chosen text has the higher score.

    Args:
        tie: What a pair of equal scores counts. 0.5, as a coin would do on average, so that a model that tells nothing
            apart is at chance whatever its last digits; RewardBench (arXiv 2403.13787) counts ties as wrong: 0.

    Example:
        >>> metric = PreferenceAccuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, -1.0]]), torch.zeros(4))
        >>> float(metric.compute())
        0.625
    """

    def __init__(self, tie: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= tie <= 1:
            raise ValueError(f"tie: expected a number in [0, 1], found {tie!r}")
        self.tie = tie

    def values(self, margins: Tensor) -> Tensor:
        """1, the points of a tie, or 0."""
        return (margins > 0) + self.tie * (margins == 0)


class PreferenceMargin(PreferenceMetric):
    """How much higher the chosen text scores, in units of the model's score: the mean over pairs.

    Example:
        >>> metric = PreferenceMargin()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.zeros(2))
        >>> float(metric.compute())
        -1.0
    """

    def values(self, margins: Tensor) -> Tensor:
        """The margins."""
        return margins


class PreferenceLoss(PreferenceMetric):
    """What reward models are trained with: `-log sigmoid(margin)` in nats (arXiv 2203.02155, eq. 1 for one pair).

    Example:
        >>> metric = PreferenceLoss()
        >>> metric.update(torch.tensor([[1.0, 1.0]]), torch.zeros(1))
        >>> round(float(metric.compute()), 4)  # ln 2
        0.6931
    """

    higher_is_better = False

    def values(self, margins: Tensor) -> Tensor:
        """The loss of each pair."""
        return -functional.logsigmoid(margins)


def _scores(model: nn.Module, head: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """Shape `(n, 1)`, float32."""
    scores = logits_of(forward(model, inputs), head, inputs).float()
    if scores.shape[1] != 1:
        raise TaskError(
            f"a reward model returns one score a text, shape (samples, 1); found {tuple(scores.shape)}: its config "
            "needs num_labels=1"
        )
    return scores
