"""Text-to-text tasks: an encoder-decoder reads a prompt, and writes its answer or weighs the possible ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Samples
from fusion_eval.data.inputs import columns_of
from fusion_eval.data.tokenizer import identify_tokenizer, load_tokenizer
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.tasks.classification import Classification
from fusion_eval.tasks.regression import Regression
from fusion_eval.tasks.task import Prediction

__all__ = ["LabelGeneration", "LabelScoring", "NumberGeneration", "generate"]


@dataclass(frozen=True)
class LabelWords(Classification):
    """Classification in words: class `i` is the answer `words[i]`.

    Args:
        data: Where the samples come from: inputs are the encoder's, targets integers in `[0, c)`.
        metrics: See `Classification`.
        head: None; the model's own language modelling head answers.
        num_classes: `c`, the number of words, whether given or not.
        tokenizer: The tokenizer of the model, see `fusion_eval.data.Tokenized`.
        words: The answers in the order of their class.

    Raises:
        ConfigError: there are fewer than two words, two are alike, or one begins or ends with white space.
    """

    tokenizer: str = field(kw_only=True)
    words: Sequence[str] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        words = tuple(self.words)
        if len(words) < 2 or len(set(words)) < len(words) or any(not word or word != word.strip() for word in words):
            raise ConfigError(f"words={list(words)}: give at least two different ones, without white space around them")
        if self.num_classes not in (None, len(words)):
            raise ConfigError(f"num_classes={self.num_classes}, but there are {len(words)} words")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "num_classes", len(words))

    def settings(self) -> dict[str, Any]:
        """See `Task`; the tokenizer counts by its content."""
        return {**super().settings(), "tokenizer": identify_tokenizer(self.tokenizer)}


@dataclass(frozen=True)
class LabelGeneration(LabelWords):
    """The answer that the model writes, greedily, is right if it is the word of the target's class, letter by letter.

    Metrics get classes `(n,)`, predicted and target; `c` stands for a text that is none of the words, so metrics are
    made for `c + 1` classes. Each sample leaves the columns `target`, `prediction` and `text`, what was written.

    Args:
        max_new_tokens: After how many tokens a text ends that the model does not end; 9 is what FusionBench's
            `max_length=10` leaves beside the start token.
    """

    max_new_tokens: int = field(default=9, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self.max_new_tokens)

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics for the words and one class more."""
        return self.fresh_metrics(num_classes=len(self.words) + 1)

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Write texts and look them up among the words."""
        inputs, targets = batch
        targets = targets.long()
        texts = generate(model, inputs, self.tokenizer, self.max_new_tokens)
        class_of = {word: index for index, word in enumerate(self.words)}
        predicted = [class_of.get(text, len(self.words)) for text in texts]
        prediction = torch.tensor(predicted, device=targets.device)
        columns = {"target": targets, "prediction": prediction, "text": texts, **columns_of(inputs)}
        return Prediction(prediction, targets, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Hits, for micro-averaged accuracy."""
        if type(metric) is MulticlassAccuracy and (metric.average, metric.ignore_index) == ("micro", None):
            return np.asarray(columns["prediction"] == columns["target"])
        return None


@dataclass(frozen=True)
class NumberGeneration(Regression):
    """The number that the model writes, greedily; a text that is no finite number counts as 0, as FusionBench has it.

    Metrics are those of `Regression` for targets `(n,)`. Each sample leaves its columns, `text`, what was written, and
    `is_number`.

    Args:
        data: Where the samples come from: inputs are the encoder's, targets numbers.
        metrics: See `Regression`.
        head: None; the model's own language modelling head answers.
        tokenizer: The tokenizer of the model, see `fusion_eval.data.Tokenized`.
        max_new_tokens: After how many tokens a text ends that the model does not end.
        decimals: Targets are rounded to so many decimals, those with which the model was taught to answer; None: they
            are taken as they are.
    """

    tokenizer: str = field(kw_only=True)
    max_new_tokens: int = field(default=9, kw_only=True)
    decimals: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self.max_new_tokens)

    def settings(self) -> dict[str, Any]:
        """See `Task`; the tokenizer counts by its content."""
        return {**super().settings(), "tokenizer": identify_tokenizer(self.tokenizer)}

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Write texts and read them as numbers."""
        inputs, targets = batch
        if targets.ndim != 1:
            raise TaskError(f"targets should be numbers of shape (n,), found {tuple(targets.shape)}")
        if self.decimals is not None:  # Python rounds the number itself; torch a product, which may lie elsewhere
            targets = targets.new_tensor([round(target, self.decimals) for target in targets.tolist()])
        texts = generate(model, inputs, self.tokenizer, self.max_new_tokens)
        numbers = [_number(text) for text in texts]
        outputs = torch.tensor([number or 0.0 for number in numbers], dtype=torch.float64, device=targets.device)
        targets = targets.double()
        columns = {
            "target": targets,
            "prediction": outputs,
            "error": outputs - targets,
            "text": texts,
            "is_number": torch.tensor([number is not None for number in numbers]),
            **columns_of(inputs),
        }
        return Prediction(outputs, targets, columns)


@dataclass(frozen=True)
class LabelScoring(LabelWords):
    """Classification among the words alone: the logit of a class is the log-likelihood of its word.

    That is the sum over the tokens of the word, the end of the text included, of their log-probabilities in nats given
    the prompt: words of several tokens compete with shorter ones as whole answers. The encoder reads each prompt once.
    Metrics and columns are those of `Classification`.
    """

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Log-likelihoods, and what is kept of each sample."""
        tokenizer = load_tokenizer(self.tokenizer)
        answers = [tokenizer(text_target=word, return_tensors="pt").input_ids for word in self.words]
        prediction = super().predict(_AnswerScorer(_writer(model), answers), None, batch, samples)
        return Prediction(prediction.outputs, prediction.targets, {**prediction.columns, **columns_of(batch[0])})


class _AnswerScorer(nn.Module):
    """An encoder-decoder seen as a classifier of prompts: the log-likelihoods of given answers.

    Args:
        writer: The encoder-decoder.
        answers: The tokens of each answer, shape `(1, t)`.
    """

    def __init__(self, writer: Any, answers: Sequence[Tensor]) -> None:
        super().__init__()
        self.writer = writer
        self.answers = answers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Shape `(n, answers)`, float32, from two of shape `(n, t)`."""
        encoded = self.writer.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
        scores = []
        for answer in self.answers:
            labels = answer.to(input_ids.device).expand(len(input_ids), -1)
            logits = self.writer(
                encoder_outputs=encoded,
                attention_mask=attention_mask,
                decoder_input_ids=self.writer.prepare_decoder_input_ids_from_labels(labels),
            ).logits
            log_probabilities = logits.float().log_softmax(dim=-1)
            scores.append(log_probabilities.gather(2, labels[..., None]).sum(dim=(1, 2)))
        return torch.stack(scores, dim=1)


def generate(model: nn.Module, inputs: Mapping[str, Tensor], tokenizer: str, max_new_tokens: int) -> list[str]:
    """What an encoder-decoder of transformers writes greedily: one beam, no sampling.

    The prompts of a batch may be padded on either side: padding is masked in the encoder, and the decoder starts each
    text anew. So a text does not depend on the batch it is written in.

    Args:
        model: The model under test.
        inputs: `input_ids` and `attention_mask`, both of shape `(n, t)`.
        tokenizer: See `fusion_eval.data.Tokenized`.
        max_new_tokens: After how many tokens a text ends that the model does not end.

    Returns:
        `n` texts, without special tokens and without white space around them.

    Raises:
        TaskError: the model is no encoder-decoder of transformers that generates, or fails on the inputs.
    """
    writer = _writer(model)
    try:
        tokens = writer.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    except Exception as error:
        shape = tuple(inputs["input_ids"].shape)
        raise TaskError(f"the model failed to generate from input_ids {shape}: {error}") from error
    return [text.strip() for text in load_tokenizer(tokenizer).batch_decode(tokens, skip_special_tokens=True)]


def _check_length(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens}; it should be at least 1")


def _number(text: str) -> float | None:
    """The finite number that a text is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _writer(model: nn.Module) -> Any:
    """The encoder-decoder in a model under test."""
    writer: Any = model.backbone if isinstance(model, MergedModel) else model
    config = getattr(writer, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or not hasattr(writer, "generate"):
        raise TaskError(
            f"{type(writer).__name__} does not write text: the task needs an encoder-decoder of transformers with a "
            "language modelling head, as AutoModelForSeq2SeqLM builds it"
        )
    return writer
