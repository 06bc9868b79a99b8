"""The head of a fine-tuned classifier of transformers, which stays with its task while the backbone is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_eval.errors import CheckpointError, TaskError, few
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.models.adapter import is_adapter, read_stored_whole
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.hub import local_path
from fusion_eval.models.hugging_face import read_config, transformers_or_error

__all__ = ["CheckpointHead", "HeadOfCheckpoint"]

_PADDING = -1
_GIVEN_BY_BACKBONE = {"decoder_input_ids"}

_UNKNOWN = 7919
"""As many classes, a prime that no other size is, show which tensors of a head have one row a class."""


@dataclass(frozen=True)
class CheckpointHead:
    """The head of a fine-tuned classifier: all that its architecture has beyond the backbone.

    Attributes:
        path: A directory that `save_pretrained` wrote, or an id on the hub (`owner/name`, or `owner/name@revision`): of
            a model, or of a LoRA adapter that PEFT has saved with the head that was trained beside it.
        base: Of an adapter: what was adapted, of which the `config.json` is read; None: what the adapter names.

    Example:
        >>> CheckpointHead("nateraw/vit-base-beans")
        CheckpointHead(path='nateraw/vit-base-beans', base=None)
    """

    path: str
    base: str | None = None

    def load(self) -> HeadOfCheckpoint:
        """Build the head in float32, with the weights of the checkpoint.

        Its class is what `architectures` in `config.json` names; for an adapter, transformers' classifier of sequences.

        Raises:
            CheckpointError: the checkpoint cannot be had or has no such head, or its weights do not fit.
        """
        directory = local_path(self.path)
        classifier, stored = self._adapted(directory) if is_adapter(directory) else self._saved(directory)
        setattr(classifier, classifier.base_model_prefix, _Given())
        prefix = f"{classifier.base_model_prefix}."
        own = {name: tensor for name, tensor in stored.items() if not name.startswith(prefix)}
        classifier.load_state_dict(fit_state_dict(own, classifier.state_dict(), self.path), assign=True)
        classifier.config.get_text_config().pad_token_id = _PADDING
        return HeadOfCheckpoint(classifier.float())

    def _saved(self, directory: Path) -> tuple[Any, StateDict]:
        """A classifier without weights, and those that were saved."""
        config = read_config(self.path)
        names = config.architectures or ["nothing"]
        cls = getattr(transformers_or_error(), names[0], None)
        if cls is None:
            raise CheckpointError(f"{self.path}: config.json: architectures names {names[0]}, no class of transformers")
        classifier = _without_weights(cls._from_config, config)
        if classifier.base_model is classifier:
            raise CheckpointError(
                f"{self.path}: {names[0]} is a backbone without a head; a head is read from a fine-tuned classifier"
            )
        return classifier, load_state_dict(directory)

    def _adapted(self, directory: Path) -> tuple[Any, StateDict]:
        """Likewise of an adapter; how many classes there are, only the rows of its last layer tell."""
        adapter, stored = read_stored_whole(directory)
        if adapter.task_type != "SEQ_CLS":
            raise CheckpointError(
                f"{self.path}: adapter_config.json: task_type is {adapter.task_type!r}; a head is read from an adapter "
                "of 'SEQ_CLS', a classifier of sequences"
            )
        base = self.base or adapter.base
        if not base:
            raise CheckpointError(f"{self.path}: the adapter does not name its base; set `base` of the head")
        config = read_config(base)
        build = transformers_or_error().AutoModelForSequenceClassification.from_config
        config.num_labels = _UNKNOWN
        expected = _without_weights(build, config).state_dict()
        last = next((name for name, tensor in expected.items() if _UNKNOWN in tensor.shape and name in stored), None)
        if last is None:
            raise CheckpointError(
                f"{self.path}: the adapter holds no head, only {few(sorted(stored)) or 'its factors'}; PEFT stores "
                "what modules_to_save names"
            )
        config.num_labels = len(stored[last])
        return _without_weights(build, config), stored


def _without_weights(build: Callable[..., Any], config: Any) -> Any:
    with torch.device("meta"):  # the backbone in it is thrown away
        return build(config, dtype=torch.float32)


class HeadOfCheckpoint(nn.Module):
    """A classifier of transformers whose backbone has run elsewhere.

    It pools what the backbone returned and computes the logits by the classifier's own `forward`, so it does exactly
    what that architecture does. It therefore wants the backbone's whole output, and the inputs (GPT-2 looks for the
    last token that is no padding).

    Args:
        classifier: A classifier with `_Given` in the place of its backbone.
    """

    takes_output = True
    """It is called with what the model returned and with what the model was given, not with features alone."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, output: Any, inputs: Any) -> Tensor:
        """The logits.

        Args:
            output: What the backbone returned.
            inputs: What the backbone was given: a tensor, or a mapping of keyword arguments.

        Returns:
            Shape `(n, c)`.

        Raises:
            TaskError: the backbone's output is not what the classifier takes.
        """
        given = self.classifier.base_model
        given.output, given.inputs = output, inputs
        try:
            done = self.classifier(**_marked(inputs)) if isinstance(inputs, Mapping) else self.classifier(inputs)
        except Exception as error:
            name = type(self.classifier).__name__
            raise TaskError(
                f"the head of {name} failed on the model's output: {type(error).__name__}: {error}"
            ) from error
        finally:
            given.output = given.inputs = None
        logits: Tensor = done.logits
        return logits


def _marked(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with padding under an id that no token has.

    Classifiers that look for the last token (GPT-2, Llama) know padding by the id in their config, which the tokenizer
    need not share and old configs lack; the mask is always right.
    """
    if not {"input_ids", "attention_mask"} <= inputs.keys():
        return dict(inputs)
    return {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, _PADDING)}


class _Given(nn.Module):
    """Stands in the place of a backbone, and returns what that has returned."""

    output: Any = None
    inputs: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.inputs, Mapping):
            made = {name for name, value in kwargs.items() if isinstance(value, Tensor)} - set(self.inputs)
            if made - _GIVEN_BY_BACKBONE:
                raise ValueError(f"the classifier gives its backbone {few(sorted(made))} too, which it did not get")
        return self.output
