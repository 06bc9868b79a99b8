"""Sentence embeddings: whether sentences that mean much the same have similar ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fusion_eval.data import Samples
from fusion_eval.tasks.regression import Regression
from fusion_eval.tasks.task import Prediction
from fusion_eval.tasks.texts import embed, require_texts, truncated

__all__ = ["SentenceSimilarity"]

_TEXTS = ("first", "second")


@dataclass(frozen=True)
class SentenceSimilarity(Regression):
    """Semantic textual similarity: the cosine of two sentences' embeddings against people's rating.

    The model under test embeds each of the two texts in a call of its own; a head such as `Pooled` makes embeddings of
    its tokens, and without a head the model returns features `(n, d)` itself. Metrics get `(cosines, ratings)`, both
    `(n,)`; they should be correlations, which do not depend on the scale of the ratings. Each sample leaves the columns
    `target` (the rating), `prediction` (the cosine) and `truncated` (one of the texts was cut).

    Args:
        data: Inputs are those of a `TokenizedTexts` with the texts `first` and `second`, targets are numbers.
        metrics: See `Task`.
        head: See `Task`.
    """

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse inputs that are no pairs, and ratings that are no finite numbers."""
        require_texts(batch[0], _TEXTS)
        super().check(batch, samples)

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Cosines, and what is kept of each pair."""
        texts, targets = batch
        first, second = (embed(model, head, texts[name]).double() for name in _TEXTS)
        cosines, ratings = (first * second).sum(dim=-1), targets.double()
        return Prediction(cosines, ratings, {"target": ratings, "prediction": cosines, **truncated(texts)})
