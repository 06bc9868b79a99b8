"""What tasks with several texts a sample have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusion_eval.data.inputs import columns_of
from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward, logits_of

__all__ = ["embed", "require_texts", "truncated"]


def require_texts(inputs: Any, names: Sequence[str]) -> None:
    """Refuse inputs of a batch that are not the named texts.

    Raises:
        TaskError: there is another text, or one is missing.
    """
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        found = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise TaskError(
            f"the inputs should be the texts {' and '.join(names)}, found {found}; let the data's transform be a "
            "fusion_eval.data.TokenizedTexts with texts of these names"
        )


def truncated(texts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The column `truncated`, shape `(n,)`: whether one of a sample's texts was cut; nothing if nobody counted."""
    cut = [columns["truncated"] for inputs in texts.values() if "truncated" in (columns := columns_of(inputs))]
    return {"truncated": torch.stack(cut).any(dim=0)} if cut else {}


def embed(model: nn.Module, head: nn.Module | None, inputs: Any) -> Tensor:
    """Embeddings of `n` texts, float32, shape `(n, d)`, each of length 1: what the head makes of the model's output, or
    the features in it if there is none.

    Raises:
        TaskError: the model fails or returns no features.
    """
    embeddings = logits_of(forward(model, inputs), nn.Identity() if head is None else head, inputs).float()
    normalised: Tensor = embeddings / embeddings.norm(dim=-1, keepdim=True)
    return normalised
