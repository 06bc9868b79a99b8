"""Models of the open_clip library (arXiv 2212.07143), in the same two parts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fusion_eval.data.digest import digest_content
from fusion_eval.errors import CheckpointError, ConfigError, suggest
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.clip.text_tower import TextEncoder
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.hub import local_path
from fusion_eval.stamps import file_identity

__all__ = ["OpenCLIPTextTower", "open_clip_vision_model"]

_VISION = "visual."
_FILE = "open_clip_model.safetensors"


def open_clip_vision_model(name: str) -> nn.Module:
    """The architecture of a vision encoder of open_clip, with its projection, without its weights.

    Args:
        name: As `open_clip.list_models()` has it, such as `ViT-B-32`.

    Returns:
        Pixels `(n, 3, side, side)` to embeddings `(n, d)`.

    Raises:
        ConfigError: open_clip does not know the name.
        CheckpointError: open_clip is not installed, or cannot be imported.
    """
    visual: nn.Module = _create(name).visual
    return visual


@dataclass(frozen=True)
class OpenCLIPTextTower:
    """The text tower and the logit scale of a model of open_clip.

    Attributes:
        name: As `open_clip.list_models()` has it, such as `ViT-B-32`.
        checkpoint: Weights of the whole model: a file, a directory or id on the hub with `open_clip_model.safetensors`.
    """

    name: str
    checkpoint: str

    def digest(self) -> str:
        """Digest of the weights; computed once as long as the file does not change.

        Raises:
            CheckpointError: the checkpoint cannot be had or read.
        """
        file = self._file()
        return digest_content([self.name, _digest(file, file_identity(file))])

    def load(self) -> TextEncoder:
        """Read it.

        Returns:
            Prompts longer than the context are cut and keep their end token.

        Raises:
            ConfigError: open_clip does not know the name.
            CheckpointError: open_clip cannot be imported, or the checkpoint cannot be had or read or does not fit.
        """
        model = _create(self.name).eval()
        stored = load_state_dict(self._file())
        model.load_state_dict(fit_state_dict(stored, model.state_dict(), self.checkpoint))
        tokenize: Any = _import().get_tokenizer(self.name)

        def embed(prompts: Sequence[str]) -> Tensor:
            embeddings: Tensor = model.encode_text(tokenize(list(prompts)))
            return embeddings

        return TextEncoder(embed, None, model.logit_scale.detach())

    def _file(self) -> Path:
        place = local_path(self.checkpoint)
        file = place / _FILE if place.is_dir() else place
        if not file.is_file():
            raise CheckpointError(f"{self.checkpoint}: the directory has no {_FILE}; give the file of the weights")
        return file


def _create(name: str) -> Any:
    open_clip = _import()
    if name not in open_clip.list_models():
        raise ConfigError(f"open_clip has no model {name!r}{suggest(name, open_clip.list_models())}")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns that weights are random: ours come next
    try:
        return open_clip.create_model(name, pretrained=None, pretrained_text=False)
    finally:
        root.setLevel(level)


def _import() -> Any:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was made for another torch
        raise CheckpointError(
            f'models of open_clip need an extra: pip install "fusion-eval[open-clip]" ({error})'
        ) from error
    return open_clip


@functools.lru_cache(maxsize=8)
def _digest(file: Path, identity: str) -> str:
    """Digest of the weights outside of the vision encoder, in a file of this identity."""
    stored = load_state_dict(file)
    return digest_content([(name, stored[name]) for name in sorted(stored) if not name.startswith(_VISION)])
