"""KnOTS: task vectors that live in different subspaces, brought into a common one before they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fusion_eval.merging.consensus import Consensus, combine, require_consensus, weigh
from fusion_eval.merging.hyperparameters import require_density, require_finite, require_not_negative
from fusion_eval.merging.ranks import at_ranks
from fusion_eval.merging.state_dict import StateDict, floating_names
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole
from fusion_eval.merging.weights import expert_weights, require_weights
from fusion_eval.threads import one_thread

__all__ = ["Knots"]


@dataclass(frozen=True)
class Knots(TaskVectorMethod):
    """Knowledge Orientation Through SVD (arXiv 2410.19735), made for experts that are LoRA adapters.

    The task vectors of a layer, of shape `(outputs, inputs)`, are put side by side and decomposed together,
    `[v_1 ... v_n] = U diag(s) [V_1 ... V_n]`. `U` is common to all tasks, and `diag(s) V_t` is what task `t` does in
    that common space: vectors of different adapters, whose coordinates had nothing to do with each other, can now be
    compared element by element. There they are merged as TIES does, trimmed over all layers together, or added up, and
    taken back by `U`. Adding up is task arithmetic, as all of this is linear. Tensors that are no matrices get the mean
    of the task vectors; the authors, who merge LoRA layers only, leave them alone.

    Attributes:
        scaling: The scaling coefficient; the authors take 0.6 for ViT-B/32, 0.5 for ViT-L/14 and Llama-3-8B.
        density: The share of values kept of each task vector in the common space, in (0, 1]; the authors take 0.2 for
            vision, 1 for language.
        consensus: "ties" elects a sign and takes the mean of those that agree; "sum" adds the vectors.
        threshold: Singular values up to this are rounding errors of the experts, and left out; the authors take 1e-5.
        weights: Expert name to its weight, which multiplies its task vector; 1 for those not named.
        flatten_kernels: Whether convolution kernels are matrices, of shape `(out channels, everything else)`.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 0.6
    density: float = 0.2
    consensus: Consensus = "ties"
    threshold: float = 1e-5
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    flatten_kernels: bool = False
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_consensus(self)
        require_not_negative(self, "threshold")
        require_weights(self)

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Align, trim, combine; see `TaskVectorMethod`.

        Takes the aligned task vectors of all layers, `rank * inputs` values an expert and layer, where the rank is that
        of all experts together: little for adapters, the size of all experts at most.
        """
        weights = expert_weights(self.weights, experts)
        aligned: dict[str, tuple[Tensor, Tensor]] = {}
        for name in floating_names(base):
            if base[name].dim() == 2 or (self.flatten_kernels and base[name].dim() > 2):
                vectors = torch.stack([expert[name].double() for expert in experts.values()]) - base[name].double()
                if vectors.isfinite().all():  # if not it is left to the mean, where it is found
                    aligned[name] = self._align(vectors.flatten(2))
        smallest_kept = self._smallest_kept([vectors for _, vectors in aligned.values()], len(experts))

        def merge(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            if name not in aligned:
                return weigh(stacked - tensor, weights).mean(dim=0)
            common, vectors = aligned[name]
            with one_thread():
                trimmed = vectors * (vectors.abs() >= smallest_kept)
                return (common @ combine(trimmed, self.consensus, weights)).view(tensor.shape)

        return merge

    def _align(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Of shape `(n, outputs, inputs)`: `U`, `(outputs, rank)`, and `diag(s) V_t`, `(n, rank, inputs)`."""
        with one_thread():
            side_by_side = vectors.movedim(0, 1).flatten(1)
            common, singular_values, _ = torch.linalg.svd(side_by_side, full_matrices=False)
            common = common[:, singular_values > self.threshold]
            return common, common.mT @ vectors

    def _smallest_kept(self, layers: list[Tensor], experts: int) -> Tensor:
        """The smallest magnitude that trimming leaves of each task vector: shape `(experts, 1, 1)`."""
        found = []
        for own in range(experts):
            magnitudes = torch.cat([torch.empty(0, dtype=torch.float64), *(layer[own].flatten() for layer in layers)])
            count = len(magnitudes)
            kept = max(1, int(self.density * count))
            found.append(at_ranks(magnitudes.abs(), count - kept)[0] if count else 0.0)
        return torch.tensor(found, dtype=torch.float64).view(-1, 1, 1)
