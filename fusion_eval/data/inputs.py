"""Inputs that say more of a sample than the model is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

__all__ = ["ModelInputs", "columns_of"]


class ModelInputs(dict[str, Tensor]):
    """A batch: keyword arguments of a model, and beside them columns, which a task keeps of each sample.

    Args:
        arguments: What the model is called with, of shape `(n, ...)`.
        columns: Name to a tensor of shape `(n,)`.

    Example:
        >>> inputs = ModelInputs({"input_ids": torch.zeros(2, 3)}, {"truncated": torch.tensor([True, False])})
        >>> list(inputs), columns_of(inputs.to(torch.device("cpu")))
        (['input_ids'], {'truncated': tensor([ True, False])})
    """

    def __init__(self, arguments: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> None:
        super().__init__(arguments)
        self.columns = dict(columns)

    def to(self, device: torch.device, **how: Any) -> ModelInputs:
        """The same on another device; Lightning moves a batch with it, and leaves it to us not to wait for a GPU."""
        how = {"non_blocking": device.type not in ("cpu", "mps"), **how}
        moved = ({name: tensor.to(device, **how) for name, tensor in part.items()} for part in (self, self.columns))
        return ModelInputs(*moved)

    def __reduce__(self) -> tuple[type[ModelInputs], tuple[dict[str, Tensor], dict[str, Tensor]]]:
        return ModelInputs, (dict(self), self.columns)


register_pytree_node(  # so that what maps the tensors of a batch keeps the columns
    ModelInputs,
    lambda inputs: ([dict(inputs), inputs.columns], None),
    lambda parts, _: ModelInputs(*parts),
)


def columns_of(inputs: Any) -> dict[str, Tensor]:
    """What a batch of inputs has to be kept of each sample: nothing, unless they are `ModelInputs`."""
    return inputs.columns if isinstance(inputs, ModelInputs) else {}
