"""PCB-Merging: experts compete for every parameter, and weigh there what the competition gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusion_eval.merging.hyperparameters import require_density, require_finite
from fusion_eval.merging.state_dict import StateDict, floating_names, wide
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule

__all__ = ["PcbMerging"]

_OUTLIERS = 0.0001  # share of each task vector's smallest and of its largest magnitudes that is clamped


@dataclass(frozen=True)
class PcbMerging(TaskVectorMethod):
    """Parameter Competition Balancing (arXiv 2410.02396), as in the authors' pcb-merging.py.

    With `v_t` the task vectors of `n` experts, their magnitudes clamped to all but the 0.01 % smallest and largest:

    * Intra-balancing: `exp(n * m_t ** 2)`, with `m_t` the magnitudes of `v_t`, mapped linearly onto [0, 1].
    * Inter-balancing: `tanh(v_t * sum_s v_s)`, not clamped: positive where an expert moves with the sum.
    * Drop: of their product the `density` largest values of each expert stay.
    * Rescale: the weights `w_t` are the values that stay, mapped linearly onto [0, 1], from the least one to the
      largest; `base + scaling * sum_t (w_t * v_t) / sum_t w_t`. Where all weights are 0 the base stays.

    Where all values of an expert are equal, so that there is nothing to map, its weights are 1 if they are positive.
    The paper writes softmax where its code has `exp` and `tanh`; this is the code. The authors have three more
    versions, with which they ran experiments: those clamp 1 %, and the two for vision balance normalised task vectors.

    Attributes:
        scaling: The scaling coefficient, called lambda in the paper; 1.2 in the authors' code.
        density: The share of parameters kept for each expert, in (0, 1], called r in the paper; 0.1 in the authors'
            function, which they call with 0.05 for ViT-B/32.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.2
    density: float = 0.1

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Balance and merge; see `TaskVectorMethod`. Takes twice the memory of all experts."""
        magnitudes = _flat(base, experts, torch.abs)
        size = magnitudes.shape[1]
        if size == 0:
            return lambda _name, tensor, _stacked: tensor
        low = _at_rank(magnitudes, int(size * _OUTLIERS))
        high = _at_rank(magnitudes, int(size * (1 - _OUTLIERS) - 1))
        del magnitudes

        def balance(vectors: Tensor) -> Tensor:
            intra = torch.exp(len(vectors) * (_onto_unit(vectors.abs(), low, high) ** 2 - 1))  # exp(-n) cancels later
            return intra * torch.tanh(vectors * vectors.sum(dim=0))

        scores = _flat(base, experts, balance)
        least = _at_rank(scores, min(int(size * (1 - self.density)), size - 1))
        most = _at_rank(scores, size - 1)
        del scores

        def merge(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = _without_nan(stacked - tensor)
            weights = _onto_unit(balance(vectors), least, most)
            clamped = vectors.sign() * vectors.abs().clamp(low, high)
            merged = (weights * clamped).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-12)
            return merged.masked_fill(~(stacked - tensor).isfinite().all(dim=0), torch.nan)

        return merge


@torch.no_grad()
def _flat(base: StateDict, experts: Mapping[str, StateDict], make: Callable[[Tensor], Tensor]) -> Tensor:
    """What `make` makes of the task vectors within each tensor that is merged, side by side: shape `(experts, d)`."""
    found = [torch.zeros(len(experts), 0)]
    for name in floating_names(base):
        stacked = torch.stack([wide(expert[name]).flatten() for expert in experts.values()])
        found.append(make(_without_nan(stacked - wide(base[name]).flatten())))
    return torch.cat(found, dim=1)


def _without_nan(vectors: Tensor) -> Tensor:
    """NaN and Inf as 0: they must spoil only the tensor they are in, so that the error can name it."""
    return vectors.nan_to_num(0.0, 0.0, 0.0)


def _at_rank(values: Tensor, rank: int) -> Tensor:
    """In each row the value that has `rank` others before it in ascending order: shape `(n, d)` to `(n, 1)`."""
    return torch.from_numpy(np.partition(values.cpu().numpy(), rank)[:, rank : rank + 1].copy()).to(values.device)


def _onto_unit(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp to [low, high] and map that linearly onto [0, 1]; where it is one point, onto 1 if positive, else 0."""
    clamped = values.clamp(low, high)
    return torch.where(high > low, (clamped - low) / (high - low), (clamped > 0).to(clamped.dtype))
