"""RegMean: linear layers whose outputs are nearest to those of the experts, each on the inputs of its own task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from fusion_eval.merging.calibration import Calibration, MethodWithData, measured_on
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_share
from fusion_eval.merging.linear_layers import LinearLayer, gram_matrices, linear_layers
from fusion_eval.merging.memory import process_memory
from fusion_eval.merging.state_dict import StateDict, distinct_names
from fusion_eval.merging.tensors import Tensors, merge_whole_tensors
from fusion_eval.threads import one_thread

__all__ = ["RegMean"]

_SINGULAR = 1e-6
"""A Cholesky factor of a matrix with diagonal 1 that has less on its diagonal is taken to be one of a singular one."""


@dataclass(frozen=True)
class RegMean(MethodWithData):
    """Regression mean (arXiv 2212.09849).

    Expert `t` multiplies the inputs `x` of a linear layer with the matrix `W_t`, shape `(inputs, outputs)`. Let `G_t`
    be their Gram matrix, the mean of `x x'` over what its task's calibration samples make of them. The matrix with the
    least `sum_t mean(norm(x' W - x' W_t) ** 2)` is `(sum_t G_t)^-1 sum_t G_t W_t`. What the inputs do not determine is
    as in the mean of the experts, and so are all other tensors: biases, norms, embeddings and a matrix that is tied to
    one, and layers that are not called as a module (as in `nn.MultiheadAttention`). Linear layers that are tied to
    each other are one, and `x` the inputs of all of them.

    It takes a forward pass a sample, and float64 memory of `inputs * (inputs + 2 * outputs)` a layer, whatever the
    number of experts. On the CPU it runs with one thread, so that the number of threads changes no bit. A sweep over
    `off_diagonal` measures once.

    Attributes:
        calibration: The samples. Their labels are not used.
        off_diagonal: What the elements of `G_t` beside its diagonal are multiplied by: 1 is least squares, 0 weighs
            each input by itself. The authors' configuration for T5 holds 0.1, FusionBench's 0.95 for CLIP and 0.6
            for GPT-2.
        flatten_kernels: Whether the kernels of `nn.Conv2d` (without groups, padded with zeros) are regressed too, as
            matrices that are multiplied with patches. The paper has linear layers only.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    calibration: Calibration
    off_diagonal: float = 0.9
    flatten_kernels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self, "off_diagonal")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`."""
        read = read_experts(base, experts)
        backbone = self.calibration.backbone()
        layers = linear_layers(backbone, self.flatten_kernels)
        first = distinct_names(base)
        known_as = {first[name]: name for name in layers}  # the architecture may have tied names in another order
        measured = cache(lambda: self._measure(backbone, layers, read))
        group = measured_on(self.calibration, read, "regmean", self.flatten_kernels)

        def regress(name: str, _tensor: Tensor, stacked: Tensor) -> Tensor:
            mean = stacked.mean(dim=0)
            if name not in known_as:
                return mean
            layer = known_as[name]
            with one_thread():
                sums = process_memory.recall(group, layer, lambda: measured()[layer])
                moved = _regress(sums, layers[layer].to_matrix(mean), self.off_diagonal)
            return mean + layers[layer].to_weight(moved, mean)

        return merge_whole_tensors(base, read, regress)

    @torch.no_grad()
    def _measure(
        self, backbone: nn.Module, layers: Mapping[str, LinearLayer], experts: Mapping[str, StateDict]
    ) -> dict[str, Tensor]:
        """Name of a weight to `sum_t [G_t, G_t W_t, diag(G_t) W_t]`, side by side, float64."""
        sums = {name: torch.zeros((), dtype=torch.float64) for name in layers}
        for expert, weights in experts.items():
            backbone.load_state_dict(weights)
            with gram_matrices(layers) as grams:
                for batch in self.calibration.batches(expert):
                    self.calibration.outputs(expert, backbone, batch)
            for name, layer in layers.items():
                gram, matrix = grams[name], layer.matrix.cpu()
                products = [gram, gram @ matrix, gram.diagonal()[:, None] * matrix]
                sums[name] = sums[name] + torch.cat(products, dim=1)
        return sums


def _regress(sums: Tensor, mean: Tensor, off_diagonal: float) -> Tensor:
    """What to add to the mean of the experts' matrices.

    Args:
        sums: Shape `(inputs, inputs + 2 * outputs)`, as `RegMean._measure` returns them.
        mean: Shape `(inputs, outputs)`.
        off_diagonal: See `RegMean`.
    """
    inputs, outputs = mean.shape
    gram, full, diagonal = torch.split(sums, [inputs, outputs, outputs], dim=1)
    scaled = off_diagonal * gram
    scaled.diagonal().copy_(gram.diagonal())
    return _solve(scaled, off_diagonal * full + (1 - off_diagonal) * diagonal - scaled @ mean)


def _solve(gram: Tensor, wanted: Tensor) -> Tensor:
    """Solve `gram x = wanted` for the smallest `x`, in units of the inputs.

    Args:
        gram: Positive definite or semidefinite, shape `(inputs, inputs)`.
        wanted: In its span, shape `(inputs, outputs)`.
    """
    units = gram.diagonal().sqrt()
    units = units.where(units > 0, 1.0)  # an input that is always 0 has no unit, and moves nothing
    gram, wanted = gram / (units[:, None] * units), wanted / units[:, None]
    gram.diagonal().fill_(1.0)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed or factor.diagonal().min() < _SINGULAR:
        solved: Tensor = torch.linalg.pinv(gram, rtol=_SINGULAR**2, hermitian=True) @ wanted
    else:
        solved = torch.cholesky_solve(wanted, factor)
    return solved / units[:, None]
