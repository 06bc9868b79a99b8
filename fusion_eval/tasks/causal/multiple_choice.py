"""Multiple choice: the answer that a causal language model finds likeliest."""

from __future__ import annotations

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
from fusion_eval.tasks.causal.metrics import ChoiceAccuracy
from fusion_eval.tasks.causal.model import causal_output, log_likelihoods, next_token_logits
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["MultipleChoice"]

_COLUMNS = {"sum": "prediction", "characters": "prediction_by_characters", "bytes": "prediction_by_bytes"}


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Each choice's log-likelihood behind its context; see `fusion_eval.data.ChoicePrompts`.

    The model under test returns logits `(n, t, vocabulary)`, or a mapping with `logits`. Metrics get the choices that
    are best by their log-likelihood as it is, per character and per byte, `(n, 3)`, and the right ones, `(n,)`. Of
    equals the first is taken. Each question leaves the columns `target`, `prediction`, `prediction_by_characters`,
    `prediction_by_bytes`, `log_likelihood` (of the right choice, in nats), `loss` (its negative log probability among
    the choices) and `truncated`.

    Args:
        data: A source with `ChoicePrompts` as its transform.
        metrics: Metric name to its factory.
        head: None: a language model has its own.
        share_context: Whether a context that several choices share is read once, its keys and values kept for all of
            them. The numbers are those of reading it anew up to rounding (relative 1e-6 in float32). False reads it
            anew for each choice, as models without such a cache (Mamba, RWKV) need it.

    Example:
        >>> from fusion_eval.data import ChoicePrompts, HuggingFace
        >>> from fusion_eval.tasks import ChoiceAccuracy
        >>> prompts = ChoicePrompts("gpt2", "{{ goal }}", "[sol1, sol2]")
        >>> data = HuggingFace("piqa", input=["goal", "sol1", "sol2"], target="label", transform=prompts)
        >>> MultipleChoice(data, {"accuracy": ChoiceAccuracy}).primary
        'accuracy'
    """

    share_context: bool = True

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics."""
        return {name: factory() for name, factory in self.metrics.items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse batches that `ChoicePrompts` has not made."""
        inputs = batch[0]
        if not isinstance(inputs, Mapping) or "continuations" not in inputs:
            raise TaskError("the data of MultipleChoice need the transform fusion_eval.data.ChoicePrompts")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """The likeliest choices."""
        inputs, targets = batch
        scored = log_likelihoods(self._logits(model, head, inputs), inputs["labels"])
        sizes = inputs["sizes"]
        likelihoods = torch.full(sizes.shape[:2], -torch.inf, dtype=scored.dtype, device=scored.device)
        question, choice = inputs["places"].unbind(dim=1)
        likelihoods[question, choice] = scored
        ways = [likelihoods, *(likelihoods / sizes[..., unit] for unit in (0, 1))]  # -inf where a choice is empty
        predictions = torch.stack([way.argmax(dim=1) for way in ways], dim=1)
        columns = {
            "target": targets,
            **{name: predictions[:, way] for way, name in enumerate(_COLUMNS.values())},
            "log_likelihood": likelihoods.gather(1, targets[:, None])[:, 0],
            "loss": functional.cross_entropy(likelihoods, targets, reduction="none"),
            "truncated": inputs["truncated"],
        }
        return Prediction(predictions, targets, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Hits for the accuracies."""
        if isinstance(metric, ChoiceAccuracy):
            return np.asarray(columns[_COLUMNS[metric.by]] == columns["target"])
        return None

    def _logits(self, model: nn.Module, head: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Behind each token of the continuations, `(p, s, vocabulary)`."""
        contexts, mask, rows = inputs["contexts"], inputs["contexts_mask"], inputs["context_of"]
        ids, ids_mask = inputs["continuations"], inputs["continuations_mask"]
        if not self.share_context or len(contexts) == len(rows) or contexts.shape[1] == 0:
            return _read_anew(model, head, (contexts[rows], mask[rows]), (ids, ids_mask))
        read = causal_output(model, input_ids=contexts, attention_mask=mask, use_cache=True, logits_to_keep=1)
        cache = read.get("past_key_values") if isinstance(read, Mapping) else None
        if cache is None:
            raise TaskError("the model keeps no keys and values of a context to share; set share_context=false")
        cache.batch_select_indices(rows)
        output = causal_output(
            model,
            past_mask=mask[rows],
            input_ids=ids,
            attention_mask=ids_mask,
            past_key_values=cache,
            use_cache=True,
        )
        return next_token_logits(output, head, ids.shape[1])


def _read_anew(
    model: nn.Module, head: nn.Module | None, context: tuple[Tensor, Tensor], continuation: tuple[Tensor, Tensor]
) -> Tensor:
    """Logits behind each token of the continuations, `(p, s, vocabulary)`, of one call with all padding on the right.

    There it is behind all that counts, so that it means nothing even to models that take no notice of the mask.

    Args:
        model: The model under test.
        head: None.
        context: Ids and mask, `(p, t)`, padded on the left.
        continuation: Ids and mask, `(p, s)`, padded on the right.
    """
    ids, mask = (torch.cat(parts, dim=1) for parts in zip(context, continuation, strict=True))
    width = continuation[0].shape[1]
    padding = context[0].shape[1] - context[1].sum(dim=1, keepdim=True)
    columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    moved = (columns + padding) % ids.shape[1]  # the padding on the left comes round to the right
    output = causal_output(model, input_ids=ids.gather(1, moved), attention_mask=mask.gather(1, moved))
    logits = next_token_logits(output, head, ids.shape[1])
    chosen = columns[:, -width:] - padding
    return logits.gather(1, chosen[..., None].expand(-1, -1, logits.shape[-1]))
