"""Zero-shot heads of a sentence encoder: label descriptions, embedded by the base that its experts come from."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.data.tokenizer import identify_tokenizer, load_tokenizer, model_limit
from fusion_eval.errors import ConfigError, suggest
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.clip import TextEncoder
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.hub import local_path
from fusion_eval.models.hugging_face import Backbone
from fusion_eval.models.pooling import POOLINGS, pool_tokens
from fusion_eval.stamps import file_identities

__all__ = ["SentenceTower"]


@dataclass(frozen=True)
class SentenceTower:
    """The text tower of a `ZeroShotHead` for texts: the base itself, frozen.

    The experts of one base share its space of embeddings only as long as what they are compared with stays where it
    is, so the descriptions are embedded by the base, once, and never by the model under test.

    Attributes:
        checkpoint: The base: a directory of `save_pretrained` with its tokenizer, or an id on the hub.
        pooling: "mean", "cls" or "last", as the base was trained; see `pool_tokens`.
        scale: What cosines are multiplied by, the inverse of a temperature. It decides no accuracy, but the loss; 20 is
            what sentence-transformers trains with (`MultipleNegativesRankingLoss`).
        auto_class: See `Backbone`.

    Raises:
        ConfigError: `pooling` is unknown, or `scale` is not positive.

    Example:
        >>> SentenceTower("sentence-transformers/all-MiniLM-L6-v2").pooling
        'mean'
    """

    checkpoint: str
    pooling: str = "mean"
    scale: float = 20.0
    auto_class: str = "AutoModel"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"SentenceTower: pooling={self.pooling!r}{suggest(self.pooling, POOLINGS)}")
        if not self.scale > 0:
            raise ConfigError(f"SentenceTower: scale={self.scale!r}; it should be positive")

    def digest(self) -> str:
        """Digest of weights, configuration and tokenizer; computed once as long as no file changes.

        Raises:
            CheckpointError: the checkpoint cannot be had or read.
            DataError: there is no tokenizer.
        """
        directory = local_path(self.checkpoint)
        files = _digest(directory, file_identities(directory))
        return digest_content([self.pooling, self.scale, self.auto_class, files])

    def load(self) -> TextEncoder:
        """Read it, onto a GPU where there is one.

        Raises:
            CheckpointError: the checkpoint cannot be had or read.
            DataError: there is no tokenizer.
        """
        directory = str(local_path(self.checkpoint))
        tokenizer = load_tokenizer(directory)
        model = Backbone(directory, self.auto_class)().eval()
        model.load_state_dict(fit_state_dict(load_state_dict(directory), model.state_dict(), directory))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
        limit = model_limit(tokenizer)

        def embed(texts: Sequence[str]) -> Tensor:
            tokens = tokenizer(
                list(texts), padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
            ).to(device)
            return pool_tokens(model(**tokens).last_hidden_state, tokens["attention_mask"], self.pooling).cpu()

        return TextEncoder(embed, None, torch.tensor(math.log(self.scale)))


@functools.lru_cache(maxsize=8)
def _digest(directory: Path, facts: tuple[tuple[str, str], ...]) -> str:
    """Digest of the content of a directory whose files' names and identities are `facts`."""
    weights = load_state_dict(directory)
    config = (directory / "config.json").read_bytes()
    return digest_content([sorted(weights.items()), config, identify_tokenizer.__wrapped__(str(directory))])
