"""Zero-shot classification: the classifier is made of the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.data.digest import digest_content
from fusion_eval.errors import ConfigError, suggest
from fusion_eval.models.clip.head_store import stored_or_built
from fusion_eval.models.clip.prompts import Prompts, known_classes
from fusion_eval.models.clip.text_tower import TextEncoder, TextTower

__all__ = ["CosineClassifier", "ZeroShotHead"]

_VERSION = 2
"""Of what a stored head is: counted up when the same inputs give other tensors."""


@dataclass(frozen=True)
class ZeroShotHead:
    """Cosine similarity between an image and the descriptions of the classes (arXiv 2103.00020, section 3.1).

    A class is the mean of the normalised embeddings of its prompts, normalised again: the ensemble over the embedding
    space of section 3.1.4. All prompts are embedded in batches when a head is loaded for the first time, and kept in
    the cache directory; whoever needs the same text tower, class names and templates again reads them from there.

    Args:
        text_tower: Of the base that the vision encoders were fine-tuned from.
        classes: One of `known_classes()`, a YAML file with the keys `classes` and `templates`, or class names in the
            order of the data's targets.
        templates: Prompts with `{}` where a class name goes; None: those of the data set or file.

    Raises:
        ConfigError: `classes` is unknown, or holds no text; a template has no `{}`.

    Example:
        >>> from fusion_eval.models import CLIPTextTower
        >>> head = ZeroShotHead(CLIPTextTower("openai/clip-vit-base-patch32"), "eurosat")
        >>> len(head.prompts().classes)
        10
    """

    text_tower: TextTower
    classes: str | Sequence[str]
    templates: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.classes, str) or self.classes in known_classes():
            prompts = self.prompts()
            if not isinstance(self.classes, str):
                object.__setattr__(self, "classes", prompts.classes)  # YAML gives lists, which cannot be hashed
            if self.templates is not None:
                object.__setattr__(self, "templates", prompts.templates)
        elif Path(self.classes).suffix not in (".yaml", ".yml"):
            known = suggest(self.classes, known_classes())
            raise ConfigError(f"classes: {self.classes!r} is no data set and no YAML file{known}")

    def prompts(self) -> Prompts:
        """Class names and templates.

        Raises:
            ConfigError: they are not as they should be.
        """
        if not isinstance(self.classes, str):
            return Prompts(self.classes, self.templates or ())
        read = Prompts.read(self.classes)
        return read if self.templates is None else Prompts(read.classes, self.templates)

    def load(self) -> CosineClassifier:
        """Build it, or read what was built before.

        Returns:
            Features `(n, width)` to logits `(n, classes)`, float32.

        Raises:
            CheckpointError: the text tower cannot be had or read.
            ConfigError: the file of the class names is not as it should be.
        """
        prompts = self.prompts()
        key = digest_content([_VERSION, self.text_tower.digest(), prompts.classes, prompts.templates])
        return CosineClassifier(stored_or_built(key, lambda: _build(self.text_tower.load(), prompts)))


class CosineClassifier(nn.Module):
    """Scaled cosines between projected features and class embeddings.

    Args:
        tensors: `class_embeddings`, shape `(classes, d)`, each of length 1; `scale`, what cosines are multiplied by;
            `visual_projection`, shape `(d, width)`, unless the features are embeddings already.
    """

    class_embeddings: Tensor
    scale: Tensor
    visual_projection: Tensor | None

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("class_embeddings", "scale", "visual_projection"):
            self.register_buffer(name, tensors.get(name))
        self.in_features = tensors.get("visual_projection", self.class_embeddings).shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """Features `(n, width)` to logits `(n, classes)`."""
        projection = self.visual_projection
        embeddings = features if projection is None else functional.linear(features, projection)
        return functional.linear(_normalised(embeddings), self.class_embeddings) * self.scale


def _build(encoder: TextEncoder, prompts: Prompts) -> dict[str, Tensor]:
    of_prompts = _embed(encoder, prompts.texts).reshape(len(prompts.classes), len(prompts.templates), -1)
    tensors = {
        "class_embeddings": _normalised(_normalised(of_prompts).mean(dim=1)),
        "scale": encoder.logit_scale.exp(),
    }
    if encoder.visual_projection is not None:
        tensors["visual_projection"] = encoder.visual_projection.contiguous()
    return tensors


@torch.no_grad()
def _embed(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Embeddings of all prompts, with a bar in the terminal that shows how far it is."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    distinct = sorted(set(texts))  # so those that begin alike, and are about as long, share a batch
    starts = track(
        range(0, len(distinct), encoder.batch),
        f"embedding {len(distinct):,} prompts",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    embeddings = torch.cat([encoder.embed(distinct[start : start + encoder.batch]) for start in starts])
    rows = {text: row for row, text in enumerate(distinct)}
    return embeddings[[rows[text] for text in texts]]


def _normalised(vectors: Tensor) -> Tensor:
    normalised: Tensor = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return normalised
