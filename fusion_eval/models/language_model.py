"""A language model of transformers, whole, as the architecture of a model pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fusion_eval.errors import CheckpointError
from fusion_eval.models.hugging_face import read_config, with_stored_names

__all__ = ["LanguageModel"]


@dataclass(frozen=True)
class LanguageModel:
    """Builds a causal language model with the layer that gives the logits of the next token, which is merged too.

    Of the checkpoint only `config.json` is read.

    Attributes:
        path: A directory with a `config.json`, or an id on the hub (`owner/name`, or `owner/name@revision`).

    Example:
        >>> LanguageModel("Qwen/Qwen2.5-1.5B").path
        'Qwen/Qwen2.5-1.5B'
    """

    path: str

    def __call__(self) -> nn.Module:
        """Build what `transformers.AutoModelForCausalLM` would build, in float32, with random weights.

        Raises:
            CheckpointError: the config cannot be had, or transformers has no such model for it.
        """
        config = read_config(self.path)
        import transformers

        auto: Any = transformers.AutoModelForCausalLM
        try:
            model = auto.from_config(config, dtype=torch.float32)
        except ValueError as error:  # the message lists a hundred known models
            raise CheckpointError(
                f"{self.path}: transformers has no causal language model for model_type {config.model_type!r}"
            ) from error
        return with_stored_names(model)
