"""What older versions of transformers wrote into checkpoints, and the checkpoints of the hub still hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["is_leftover", "with_present_names"]

_LAYER_NORM = re.compile(r"(.*LayerNorm)\.(gamma|beta)")
_PRESENT = {"gamma": "weight", "beta": "bias"}
_COMPUTED = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")
_MASK = re.compile(r"(.*\.)?(attn|crossattention)\.(masked_)?bias")
_UNUSED = re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")


def with_present_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; BERT's layer norms, once of TensorFlow, have `weight` and `bias` for `gamma` and `beta`.

    Example:
        >>> list(with_present_names({"bert.embeddings.LayerNorm.gamma": None, "layer_scale.gamma": None}))
        ['bert.embeddings.LayerNorm.weight', 'layer_scale.gamma']
    """
    matches = {name: _LAYER_NORM.fullmatch(name) for name in state_dict}
    return {
        f"{match[1]}.{_PRESENT[match[2]]}" if (match := matches[name]) else name: tensor
        for name, tensor in state_dict.items()
    }


def is_leftover(name: str, tensor: Tensor) -> bool:
    """Whether an architecture that has no such tensor may do without it: it is computed today, or never was used.

    These are positions, the causal masks of GPT-2 (of four dimensions, or the number that stands for minus infinity),
    and a table of T5 that none of its layers reads.

    Example:
        >>> import torch
        >>> is_leftover("h.0.attn.bias", torch.ones(1, 1, 8, 8)), is_leftover("h.0.attn.bias", torch.ones(8))
        (True, False)
    """
    if _MASK.fullmatch(name):
        return tensor.ndim in (0, 4)
    return bool(_COMPUTED.fullmatch(name) or _UNUSED.fullmatch(name))
