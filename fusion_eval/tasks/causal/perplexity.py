"""How well a causal language model predicts texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.data.language_modelling import WindowSamples
from fusion_eval.errors import TaskError
from fusion_eval.tasks.causal.model import causal_output, log_likelihoods, next_token_logits
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["LanguageModelling"]


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Perplexity and bits per byte of texts, window by window; see `fusion_eval.data.TextWindows`.

    The model under test returns logits `(n, t, vocabulary)`, or a mapping with `logits`. Metrics get the negative
    log-likelihood of each window in nats, `(n,)`, and its tokens, bytes and words, `(n, 3)`. Each window leaves the
    columns `nats`, `tokens`, `bytes` and `words`.

    Args:
        data: A `TextWindows`.
        metrics: Metric name to its factory.
        head: None: a language model has its own.

    Example:
        >>> from fusion_eval.data import TextWindows
        >>> from fusion_eval.tasks import BitsPerByte
        >>> LanguageModelling(TextWindows("gpt2", "texts"), {"bits_per_byte": BitsPerByte}).primary
        'bits_per_byte'
    """

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics."""
        return {name: factory() for name, factory in self.metrics.items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse samples that are no windows of texts."""
        if not isinstance(samples, WindowSamples):
            raise TaskError(f"the data of LanguageModelling is a fusion_eval.data.TextWindows, found {samples!r:.80}")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """What each window costs."""
        inputs, counts = batch
        labels = inputs["labels"]
        output = causal_output(model, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        nats = -log_likelihoods(next_token_logits(output, head, labels.shape[1]), labels)
        columns = {"nats": nats, "tokens": counts[:, 0], "bytes": counts[:, 1], "words": counts[:, 2]}
        return Prediction(nats, counts, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """None: ratios of sums."""
        return None
