"""Generation: does what a causal language model adds to a prompt say what it should?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.tasks.causal.decoding import complete
from fusion_eval.tasks.causal.metrics import GenerationMatch
from fusion_eval.tasks.task import Prediction, Task

__all__ = ["Generation"]

_TAKES = ("first", "last")


@dataclass(frozen=True)
class Generation(Task):
    r"""Exact match of completions; see `fusion_eval.data.CompletionPrompt`.

    The model adds the likeliest token again and again (greedy decoding, no randomness) until EOS, a stop text or the
    most tokens. What it says is taken out of the completion, stripped and compared with the target. Metrics get
    whether they are equal, `(n,)`, and as many times true. Each sample leaves the columns `completion`, `answer` (what
    was taken out of it, "" if nothing), `expected`, `match`, `tokens` (how many were added) and `truncated`.

    Args:
        data: A source with `CompletionPrompt` as its transform and texts as targets.
        metrics: Metric name to its factory.
        head: None: a language model has its own.
        stop: Texts that end a completion, and are no part of it.
        extract: A regular expression that finds the answer in a completion: its first group that is not empty, or all
            of it where it has none. None: the whole completion is the answer. What is not found is no answer.
        take: Which of several finds counts: "first" or "last".
        remove: Regular expressions of what is removed, one after the other, from answer and target.
        ignore_case: Whether case does not matter.

    Raises:
        ConfigError: a regular expression is malformed, or `take` unknown.

    Example:
        >>> from fusion_eval.data import CompletionPrompt, HuggingFace
        >>> from fusion_eval.tasks import GenerationMatch
        >>> prompt = CompletionPrompt("gpt2", "Question: {{ question }}\nAnswer:")
        >>> data = HuggingFace("openai/gsm8k", target="answer", target_type="text", transform=prompt)
        >>> task = Generation(data, {"exact_match": GenerationMatch}, extract="-?[0-9]+", take="last")
        >>> task.answer_in("3 + 4 is 7."), task.answer_in("seven")
        ('7', None)
    """

    stop: Sequence[str] = ()
    extract: str | None = None
    take: str = "first"
    remove: Sequence[str] = ()
    ignore_case: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.take not in _TAKES:
            raise ConfigError(f"Generation: take={self.take!r}; choose one of {', '.join(_TAKES)}")
        for pattern in (self.extract or "", *self.remove):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"Generation: {pattern!r} is no regular expression: {error}") from error

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics."""
        return {name: factory() for name, factory in self.metrics.items()}

    def check(self, batch: Any, samples: Samples) -> None:
        """Refuse batches that `CompletionPrompt` has not made."""
        inputs = batch[0]
        if not isinstance(inputs, Mapping) or "max_new_tokens" not in inputs:
            raise TaskError("the data of Generation need the transform fusion_eval.data.CompletionPrompt")

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Complete the prompts and compare."""
        inputs, expected = batch
        tokenizer = CausalTokenizer(inputs["tokenizer"])
        completions, counts = complete(
            model,
            head,
            inputs["input_ids"],
            inputs["attention_mask"],
            tokenizer=tokenizer,
            stop=self.stop,
            max_new_tokens=inputs["max_new_tokens"],
        )
        answers = [self.answer_in(completion) for completion in completions]
        equal = [a is not None and a == self._cleaned(e) for a, e in zip(answers, expected, strict=True)]
        matches = torch.tensor(equal, device=inputs["input_ids"].device)
        columns: dict[str, Any] = {
            "completion": completions,
            "answer": [answer or "" for answer in answers],
            "expected": expected,
            "match": matches,
            "tokens": counts,
            "truncated": inputs["truncated"],
        }
        return Prediction(matches, torch.ones_like(matches), columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Matches for their share."""
        return columns["match"] if isinstance(metric, GenerationMatch) else None

    def answer_in(self, completion: str) -> str | None:
        """What a completion answers; None where `extract` finds nothing."""
        if self.extract is None:
            return self._cleaned(completion)
        found = list(re.finditer(self.extract, completion))
        if not found:
            return None
        chosen = found[0 if self.take == "first" else -1]
        return self._cleaned(next((group for group in chosen.groups() if group), chosen[0]))

    def _cleaned(self, text: str) -> str:
        for pattern in self.remove:
            text = re.sub(pattern, "", text)
        return text.strip().lower() if self.ignore_case else text.strip()
