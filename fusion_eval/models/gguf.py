"""GGUF files of llama.cpp: a language model in one file, quantised as a rule."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fusion_eval.errors import CheckpointError

__all__ = ["read_gguf"]


def read_gguf(path: Path) -> dict[str, Tensor]:
    """Read a causal language model, under the names that transformers gives its tensors.

    Args:
        path: A `.gguf` file of an architecture that transformers can read (Llama, Qwen2, Mistral, Gemma, ...).

    Returns:
        float32: quantised weights as the numbers that they stand for.

    Raises:
        CheckpointError: transformers, gguf or accelerate is not installed, or the file is damaged or of another kind.
    """
    try:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except ImportError as error:
        raise CheckpointError(f'{path}: GGUF files need an extra: pip install "fusion-eval[gguf]" ({error})') from error
    except Exception as error:  # the reader raises whatever a broken file leads it to
        raise CheckpointError(f"{path}: cannot be read as a GGUF file of a causal language model: {error}") from error
    return dict(model.state_dict())
