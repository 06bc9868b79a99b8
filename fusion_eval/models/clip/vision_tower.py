"""The part of CLIP that is merged: its vision encoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fusion_eval.errors import CheckpointError
from fusion_eval.models.hub import local_path

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

__all__ = ["clip_vision_model"]


def clip_vision_model(checkpoint: str) -> CLIPVisionModel:
    """The architecture of a checkpoint's vision encoder (arXiv 2103.00020), without its weights.

    Args:
        checkpoint: A directory of `save_pretrained` or an id on the hub, of a `CLIPModel` or a `CLIPVisionModel`; only
            its `config.json` is read.

    Returns:
        Pixels `(n, 3, side, side)` to an output whose `pooler_output` has shape `(n, width)`.

    Raises:
        CheckpointError: transformers is not installed, the checkpoint cannot be had, or is none of CLIP.
    """
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModel
    except ImportError as error:
        raise CheckpointError('CLIP models need an extra: pip install "fusion-eval[hf]"') from error
    directory = local_path(checkpoint)
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: config.json cannot be read: {error}") from error
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind not in ("clip", "clip_vision_model"):
        raise CheckpointError(
            f"{checkpoint}: config.json describes model_type {kind!r}; expected clip or clip_vision_model"
        )
    config = CLIPVisionConfig.from_pretrained(directory)
    config.name_or_path = ""  # where it lies does not decide what the model does
    return CLIPVisionModel(config)
