"""The part of CLIP that makes zero-shot heads: its text encoder, and where image and text meet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fusion_eval.allocator import keep_freed_memory
from fusion_eval.data.digest import digest_content
from fusion_eval.errors import CheckpointError, few
from fusion_eval.models.architecture import build_unfilled
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.clip.packing import pack_prompts
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.hub import local_path
from fusion_eval.stamps import file_identities

__all__ = ["CLIPTextTower", "TextEncoder", "TextTower"]

_TOWER = "text_model."
_JOINT = ("text_projection.weight", "visual_projection.weight", "logit_scale")
_VOCABULARY = ("tokenizer.json", "vocab.json")
_OTHER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
"""What decides the embeddings beside the weights, as far as a checkpoint has it."""

_PROMPTS = 256
"""Prompts packed at once: with 128, 5 % slower, as more of what they share is computed again."""
_ROWS = 8
"""Rows of packed prompts in one forward: on a CPU as fast as any number from four on."""
_SHOWN = 60
"""How many characters of a prompt a message shows."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text tower in memory, on the CPU: what it makes is made once, and should be the same on every machine.

    Attributes:
        embed: Prompts to embeddings, shape `(prompts, d)`, float32, not normalised.
        visual_projection: Shape `(d, width)`, float32: from the features of the vision encoder to the embeddings; None
            where the vision encoder projects its features itself.
        logit_scale: Scalar, float32: the logarithm of what cosines are multiplied by.
        batch: Prompts it is given at once: on a CPU 32, padded, are a third faster than hundreds.
    """

    embed: Callable[[Sequence[str]], Tensor]
    visual_projection: Tensor | None
    logit_scale: Tensor
    batch: int = 32


class TextTower(Protocol):
    """Where a text tower is."""

    def digest(self) -> str:
        """Digest of all that decides the embeddings: weights, configuration, tokenizer."""
        ...

    def load(self) -> TextEncoder:
        """Read it."""
        ...


@dataclass(frozen=True)
class CLIPTextTower:
    """The text tower, both projections and the logit scale of a `CLIPModel` (arXiv 2103.00020).

    Attributes:
        checkpoint: A directory of `CLIPModel.save_pretrained` with its tokenizer, or an id on the hub.
    """

    checkpoint: str

    def digest(self) -> str:
        """Digest of weights, configuration and tokenizer files; computed once as long as no file changes.

        Raises:
            CheckpointError: the checkpoint cannot be had or read, or has no text tower.
        """
        directory = self._directory()
        return _digest(directory, file_identities(directory))

    def load(self) -> TextEncoder:
        """Read it.

        Returns:
            A prompt that is longer than the context is cut and keeps its end token, as CLIP does, and a warning names
            it.

        Raises:
            CheckpointError: transformers is not installed, the checkpoint cannot be had or read, or has no text tower.
        """
        try:
            from transformers import AutoTokenizer, CLIPConfig, CLIPTextModel
        except ImportError as error:
            raise CheckpointError('CLIP models need an extra: pip install "fusion-eval[hf]"') from error
        directory = self._directory()
        if not any((directory / name).is_file() for name in _VOCABULARY):  # transformers would make up an empty one
            raise CheckpointError(f"{self.checkpoint}: no tokenizer: neither {' nor '.join(_VOCABULARY)} is there")
        try:
            config: Any = CLIPConfig.from_pretrained(directory).text_config
            tokenizer = AutoTokenizer.from_pretrained(directory)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.checkpoint}: configuration or tokenizer cannot be read: {error}") from error
        keep_freed_memory()  # it runs on the CPU, wherever the model under test does
        weights = _text_weights(directory)
        model: Any = build_unfilled(lambda: CLIPTextModel(config))
        model.eval()
        tower = {name: tensor for name, tensor in weights.items() if name.startswith(_TOWER)}
        model.load_state_dict(fit_state_dict(tower, model.state_dict(), self.checkpoint))
        projection, visual_projection, logit_scale = (weights[name].float() for name in _JOINT)

        def embed(prompts: Sequence[str]) -> Tensor:
            context = config.max_position_embeddings
            tokens = tokenizer(list(prompts), truncation=True, max_length=context)
            cut = [prompt for prompt, encoding in zip(prompts, tokens.encodings, strict=True) if encoding.overflowing]
            if cut:
                starts = few([f"{prompt[:_SHOWN]}..." for prompt in cut])
                _log.warning("prompts longer than %d tokens are cut: %s", context, starts)
            packed = pack_prompts([_until_end(ids, config.eos_token_id) for ids in tokens.input_ids], context)
            hidden = torch.cat([model(**rows).last_hidden_state for rows in packed.batches(_ROWS)])
            return functional.linear(hidden[packed.rows, packed.ends], projection)

        return TextEncoder(embed, visual_projection, logit_scale, _PROMPTS)

    def _directory(self) -> Path:
        directory = local_path(self.checkpoint)
        if not directory.is_dir():
            raise CheckpointError(f"{self.checkpoint}: expected a directory of CLIPModel.save_pretrained, found a file")
        return directory


def _until_end(ids: list[int], end: int) -> list[int]:
    """A prompt up to the token whose hidden state transformers pools, as no token sees those that come after it."""
    if end == 2:  # wrong in old configurations: transformers then takes the highest number, see its pull request 24773
        end = max(ids)
    return ids[: ids.index(end) + 1] if end in ids else ids[:1]


@functools.lru_cache(maxsize=8)
def _digest(directory: Path, facts: tuple[tuple[str, str], ...]) -> str:
    """Digest of the content of a directory whose files' names and identities are `facts`."""
    names = [name for name, *_ in facts if name in _OTHER_FILES]
    return digest_content([_text_weights(directory), *((name, (directory / name).read_bytes()) for name in names)])


def _text_weights(directory: Path) -> dict[str, Tensor]:
    """What of a checkpoint has to do with text, under the names it has in a `CLIPModel`."""
    stored = load_state_dict(directory)
    tower = {name for name in stored if name.startswith(_TOWER)}
    missing = [name for name in _JOINT if name not in stored] + ([] if tower else [f"{_TOWER}*"])
    if missing:
        raise CheckpointError(
            f"{directory}: no text tower: {', '.join(missing)} not found among {few(sorted(stored))}; give a whole "
            "CLIPModel, such as the base that the vision encoders were fine-tuned from"
        )
    return {name: stored[name] for name in sorted({*tower, *_JOINT})}
