"""The low-rank changes of weights that LoRA learns, and how their factors fit a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.models.adapter_config import AdapterConfig

__all__ = ["Factors", "LowRankChange", "low_rank_change", "square_transposed"]


@dataclass(frozen=True, eq=False)
class LowRankChange:
    """What LoRA adds to a weight: `scaling * B A` (arXiv 2106.09685, equation 3), of a convolution read as a matrix.

    Attributes:
        down: The factor A, floating-point, shape `(r, inputs)`, or `(r, inputs, *kernel)` of a convolution.
        up: The factor B, floating-point, shape `(outputs, r)`, or `(outputs, r, 1, ...)` of a convolution.
        scaling: What their product is multiplied by.
        transposed: Whether the weight is `(inputs, outputs)`.
    """

    down: Tensor
    up: Tensor
    scaling: float
    transposed: bool

    def added_to(self, weight: Tensor) -> Tensor:
        """The adapted weight: a new tensor, shape and dtype of `weight`, computed in that dtype."""
        up, down = (factor.flatten(1).to(weight.dtype) for factor in (self.up, self.down))
        left, right = (down.T, up.T) if self.transposed else (up, down)
        return torch.addmm(weight.flatten(1), left, right, alpha=self.scaling).view_as(weight)


@dataclass(frozen=True, eq=False)
class Factors:
    """A and B of one module.

    Attributes:
        down: A, as in `LowRankChange`; of an embedding, shape `(r, rows)`.
        up: B, as in `LowRankChange`; of an embedding, shape `(features, r)`.
        embedding: Whether they change an embedding, shape `(rows, features)`.
    """

    down: Tensor
    up: Tensor
    embedding: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of their product, with the kernel of a convolution."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def square(self) -> bool:
        """Whether this is a matrix whose shape does not tell its orientation."""
        return not self.embedding and len(self.shape) == 2 and self.shape[0] == self.shape[1]


def square_transposed(factors: Mapping[str, Factors], weights: StateDict, config: AdapterConfig) -> bool | None:
    """Whether square weights are `(inputs, outputs)`; None if the other ones show that the configuration misleads.

    PEFT knows it for each module, but stores one flag: that of the last module it adapted.
    """
    tellable = [name for name, pair in factors.items() if not (pair.embedding or pair.square) and len(pair.shape) == 2]
    seen = {factors[name].shape != tuple(weights[name].shape) for name in tellable}
    return config.input_first if seen <= {config.input_first} else None


def low_rank_change(
    name: str, pair: Factors, weight: Tensor, transposed_if_square: bool | None, config: AdapterConfig, file: Path
) -> LowRankChange:
    """The change that factors make of a weight.

    Args:
        name: Of the weight in the adapted model.
        pair: Its factors.
        weight: Of the base.
        transposed_if_square: From `square_transposed`.
        config: Gives rank and scaling.
        file: Holds the factors; for messages.

    Raises:
        CheckpointError: Shapes do not agree with each other, or with the rank; a square weight has no orientation.
    """
    module = name.removesuffix(".weight")
    rank = config.rank_of(module)
    if pair.square and transposed_if_square is None:
        raise CheckpointError(
            f"{file}: {name} is square and the adapter has weights of both orientations, (outputs, inputs) and "
            "(inputs, outputs): which one this is cannot be told"
        )
    matrix_transposed = transposed_if_square if pair.square else pair.shape != tuple(weight.shape)
    transposed = pair.embedding or (len(pair.shape) == 2 and bool(matrix_transposed))
    fits = (pair.shape[::-1] if transposed else pair.shape) == tuple(weight.shape)
    if not fits or len(pair.down) != rank or pair.up.flatten(1).shape[1] != rank:
        raise CheckpointError(
            f"{file}: lora_A {tuple(pair.down.shape)} and lora_B {tuple(pair.up.shape)} of {name} do not fit "
            f"rank {rank} and the weight of the base, {tuple(weight.shape)}"
        )
    return LowRankChange(pair.down, pair.up, config.scaling_of(module), transposed)
