"""Isotropic merging: every direction of the merged task vector gets the same singular value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.hyperparameters import require_finite, require_share
from fusion_eval.merging.matrices import decompose, matrix_rule, orthogonalize
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole

__all__ = ["IsoC", "IsoCTS"]


@dataclass(frozen=True)
class IsoC(TaskVectorMethod):
    """Isotropic merging in the common subspace (Iso-C; arXiv 2502.04959, section 4).

    The task vectors of a weight matrix are summed, `sum_t (expert_t - base) = U diag(s) V'`, and the singular values
    replaced by their mean: `base + scaling * mean(s) U V'`. So no direction that many tasks share drowns the others.
    Tensors that are no matrices get the mean of the task vectors, times `scaling`.

    Where a sum is not of full rank (as where no expert ever saw some inputs), the mean is over those of its singular
    values that are not 0, and only they are replaced: the directions of the others are arbitrary.

    Attributes:
        scaling: The scaling coefficient, called alpha in the paper; to be chosen on validation data, from 1 on.
        flatten_kernels: Whether convolution kernels are matrices, of shape `(out channels, everything else)`. The
            paper merges transformers, and the one kernel they have as no matrix.

    Raises:
        ConfigError: `scaling` is not a finite number.
    """

    scaling: float = 1.0
    flatten_kernels: bool = False
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """See `TaskVectorMethod`. Takes the memory of one tensor of all experts, in float64."""
        return matrix_rule(_sum_isotropic, self.flatten_kernels)


@dataclass(frozen=True)
class IsoCTS(TaskVectorMethod):
    """Isotropic merging in common and task-specific subspaces (Iso-CTS; arXiv 2502.04959, section 4).

    As Iso-C, but only the largest singular directions of the sum, the common subspace, are kept. The others are
    replaced by the same number of task-specific ones: for each expert, the largest of its task vector without its
    projection on the left common subspace. Left and right vectors of all are made orthonormal, and their singular
    values replaced by the mean. As in Iso-C, those that are 0 are left out.

    Attributes:
        scaling: The scaling coefficient, called alpha in the paper; to be chosen on validation data.
        common: The share of the `min(rows, columns)` directions that are common, in [0, 1]; 0.8 in the authors' code.
            It is raised or lowered until the rest divides by the number of experts; 1 is Iso-C.
        flatten_kernels: Whether convolution kernels are matrices, of shape `(out channels, everything else)`.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    common: float = 0.8
    flatten_kernels: bool = False
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_share(self, "common")

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """See `TaskVectorMethod`. Takes the memory of one tensor of all experts, in float64."""
        return matrix_rule(self._combine, self.flatten_kernels)

    def _combine(self, vectors: Tensor) -> Tensor:
        directions = min(vectors.shape[1:])
        per_task = min(round((directions - int(directions * self.common)) / len(vectors)), directions // len(vectors))
        if per_task == 0:
            return _sum_isotropic(vectors)
        common = decompose(vectors.sum(dim=0), most=directions - per_task * len(vectors))
        left = common[0]
        specific = [decompose(one - left @ (left.T @ one), most=per_task, made_of=one) for one in vectors]
        return _isotropic(*orthogonalize([common, *specific]))


def _sum_isotropic(vectors: Tensor) -> Tensor:
    return _isotropic(*decompose(vectors.sum(dim=0)))


def _isotropic(u: Tensor, singular_values: Tensor, vh: Tensor) -> Tensor:
    return singular_values.sum() / max(1, len(singular_values)) * (u @ vh)
