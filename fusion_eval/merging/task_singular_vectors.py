"""TSV-Merge: the largest singular directions of every expert, made orthogonal to those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.hyperparameters import require_finite
from fusion_eval.merging.matrices import decompose, matrix_rule, orthogonalize
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole

__all__ = ["TsvMerge"]


@dataclass(frozen=True)
class TsvMerge(TaskVectorMethod):
    """Task Singular Vectors merging (TSV-M; arXiv 2412.00081).

    Of the task vector of each weight matrix, `expert_t - base = U_t diag(s_t) V_t'`, the `min(rows, columns) / experts`
    largest singular directions are kept, rounded down. Those of all experts are put side by side, and their left and
    their right vectors each replaced by the nearest orthonormal ones, `U` and `V`: so tasks no longer interfere. The
    merged matrix is `base + scaling * U diag(s) V'`. Tensors that are no matrices get the mean of the task vectors,
    times `scaling`. Where there are more experts than directions, the base stays.

    Attributes:
        scaling: The scaling coefficient, called alpha in the paper; 1 in FusionBench's configuration.
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
        """See `TaskVectorMethod`. Takes the memory of one tensor of all experts, in float64, a few times."""
        return matrix_rule(_combine, self.flatten_kernels)


def _combine(vectors: Tensor) -> Tensor:
    share = min(vectors.shape[1:]) // len(vectors)
    u, singular_values, vh = orthogonalize([decompose(vector, most=share) for vector in vectors])
    return (u * singular_values) @ vh
