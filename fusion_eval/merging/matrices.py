"""What methods of singular values share: matrices are merged by a rule of their own, all other tensors averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.merging.tensors import Rule
from fusion_eval.threads import one_thread

__all__ = ["MatrixRule", "SingularVectors", "decompose", "matrix_rule", "orthogonalize"]

MatrixRule = Callable[[Tensor], Tensor]
"""Combines the task vectors of one layer, shape `(experts, rows, columns)`, float64, into one, `(rows, columns)`."""

SingularVectors = tuple[Tensor, Tensor, Tensor]
"""Left singular vectors, `(rows, k)`; singular values, `(k,)`; right singular vectors, transposed, `(k, columns)`."""


def matrix_rule(combine: MatrixRule, flatten_kernels: bool, others: Literal["mean", "base"] = "mean") -> Rule:
    """A rule for whole tensors that merges the task vectors of each matrix, and not those of other tensors.

    It computes in float64, as singular vectors of near singular values are sensitive to rounding, and on the CPU with
    one thread, as linear algebra libraries round in another order with another number of threads.

    Args:
        combine: What the method does to a matrix. It never sees NaN or Inf, which have no singular values.
        flatten_kernels: Convolution kernels are matrices too, of shape `(out channels, everything else)`.
        others: What is no matrix gets the "mean" of its task vectors, or stays as the "base" has it.
    """

    def merge(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
        vectors = stacked.double() - tensor.double()
        is_matrix = tensor.dim() == 2 or (flatten_kernels and tensor.dim() > 2)
        if not is_matrix or not bool(vectors.isfinite().all()):
            return vectors.mean(dim=0) * (others == "mean")  # a product: NaN stays, to be found
        with one_thread():
            return combine(vectors.flatten(2)).view(tensor.shape)

    return merge


def decompose(matrix: Tensor, most: int | None = None, made_of: Tensor | None = None) -> SingularVectors:
    """Singular values that are not 0 but for rounding, in descending order, and their vectors.

    The directions left out are those that the matrix does not determine: a library fills them in as it pleases.

    Args:
        matrix: Shape `(rows, columns)`.
        most: How many of the largest to return, if there are that many.
        made_of: The matrix whose rounding errors it holds, where it is the small rest of a larger one.

    Example:
        >>> u, singular_values, vh = decompose(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> singular_values
        tensor([3., 2.])
        >>> decompose(torch.ones(3, 2))[0].shape
        torch.Size([3, 1])
    """
    is_wide = matrix.shape[0] < matrix.shape[1]
    u, singular_values, vh = torch.linalg.svd(matrix.mT if is_wide else matrix, full_matrices=False)
    if is_wide:  # LAPACK is twice as fast on tall matrices
        u, vh = vh.mT, u.mT
    size = torch.linalg.norm(matrix if made_of is None else made_of)
    rank = int((singular_values > max(matrix.shape) * torch.finfo(matrix.dtype).eps * size).sum())
    kept = rank if most is None else min(rank, most)
    return u[:, :kept], singular_values[:kept], vh[:kept]


def orthogonalize(parts: Sequence[SingularVectors]) -> SingularVectors:
    """Singular vectors of several matrices side by side, moved as little as possible to be orthonormal together.

    Both sides are replaced by their orthogonal polar factor, the solution of the Procrustes problem (arXiv 2412.00081):
    the nearest matrix whose singular values are 1. Where the vectors are linearly dependent, as those of equal matrices
    are, it is the nearest whose singular values are 1 or 0.
    """
    u, singular_values, vh = (list(side) for side in zip(*parts, strict=True))
    return _isometry(torch.cat(u, dim=1)), torch.cat(singular_values), _isometry(torch.cat(vh))


def _isometry(matrix: Tensor) -> Tensor:
    u, _, vh = decompose(matrix)
    return u @ vh
