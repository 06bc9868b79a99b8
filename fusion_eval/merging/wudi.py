"""WUDI-Merging: the merged task vector that interferes least with the inputs each task vector tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.hyperparameters import require_count, require_finite, require_not_negative
from fusion_eval.merging.matrices import matrix_rule
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, apply_to_whole

__all__ = ["WudiMerging"]


@dataclass(frozen=True)
class WudiMerging(TaskVectorMethod):
    """Whoever started the interference should end it (arXiv 2503.08099).

    The rows of the task vector of a linear layer, `v_t = expert_t - base` of shape `(outputs, inputs)`, are near to
    the span of the inputs it was trained on. So the interference of a merged one, `v`, with the tasks is
    `sum_t norm((v - v_t) v_t') ** 2 / norm(v_t) ** 2`, with Frobenius norms. Adam makes it small, starting from the
    sum of the task vectors; the result is `base + scaling * v`. Task vectors that are 0 have no say.

    The paper is about linear layers alone. So tensors that are no matrices stay the base's.
    Embeddings, which are matrices, are merged here all the same.

    A step multiplies two matrices, `(outputs, inputs)` and `(inputs, inputs)`: with hundreds of steps this is by far
    the slowest of the methods, minutes for a large layer on a CPU.

    Attributes:
        scaling: The scaling coefficient; the paper has none, that is 1.
        steps: How many steps Adam takes; 300 in mergekit's version of the paper's algorithm 1.
        learning_rate: That of Adam; 1e-5 in mergekit's and FusionBench's versions, so that no parameter moves by more
            than about 0.003.
        flatten_kernels: Whether convolution kernels are matrices, of shape `(out channels, everything else)`.
        others: Whether tensors that are no matrices stay as the "base" has them, or get the "mean" of their task
            vectors, times `scaling`, as in FusionBench.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    steps: int = 300
    learning_rate: float = 1e-5
    flatten_kernels: bool = False
    others: Literal["base", "mean"] = "base"
    apply = staticmethod(apply_to_whole)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_count(self, "steps")
        require_not_negative(self, "learning_rate")
        if self.others not in ("base", "mean"):
            raise ConfigError(f'WudiMerging: others must be "base" or "mean", got {self.others!r}')

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """See `TaskVectorMethod`. Takes the memory of one tensor of all experts, and of their Gram matrices."""
        return matrix_rule(self._minimize, self.flatten_kernels, self.others)

    def _minimize(self, vectors: Tensor) -> Tensor:
        moved = vectors[vectors.flatten(1).any(dim=1)]
        grams = moved.mT @ moved / moved.square().sum(dim=(1, 2), keepdim=True)
        gram, wanted = grams.sum(dim=0), (moved @ grams).sum(dim=0)
        merged = moved.sum(dim=0)
        optimizer = torch.optim.Adam([merged], lr=self.learning_rate)
        for _ in range(self.steps):
            merged.grad = 2 * (merged @ gram - wanted)
            optimizer.step()
        return merged
