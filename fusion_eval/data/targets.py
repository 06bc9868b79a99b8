"""Targets that are numbers and not classes, whatever file they come from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusion_eval.errors import DataError

__all__ = ["NUMERIC_TARGETS", "as_numbers"]

NUMERIC_TARGETS = {"number": "(n,)", "vector": "(n, k)", "labels": "(n, c)"}
"""Type of a target to the shape that all of them have: numbers, vectors, or 1 for each class that is there and 0."""


def as_numbers(values: np.ndarray | Tensor, target_type: str, where: str) -> Tensor:
    """Targets as float32.

    Args:
        values: Integers, floats or bools of the shape that the type has.
        target_type: One of `NUMERIC_TARGETS`.
        where: The file or column, for messages.

    Raises:
        DataError: another shape, a value that is not finite, or a label that is neither 0 nor 1; the message names the
            row.

    Example:
        >>> as_numbers(np.array([[True, False]]), "labels", "labels.npy")
        tensor([[1., 0.]])
    """
    shape = NUMERIC_TARGETS[target_type]
    targets = values.float() if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float32)
    if targets.ndim != shape.count(",") + (target_type != "number"):
        raise DataError(f"{where}: targets of shape {tuple(targets.shape)}; of target_type={target_type} it is {shape}")
    rows = targets.reshape(len(targets), -1)
    wrong = ~rows.isfinite().all(dim=1)
    if wrong.any():
        raise DataError(f"{where}: row {int(wrong.int().argmax())} has no target, or one that is not finite")
    if target_type == "labels":
        strange = ((rows != 0) & (rows != 1)).nonzero()
        if len(strange):
            row, label = strange[0].tolist()
            raise DataError(f"{where}: {float(rows[row, label]):g} in row {row}; labels should be 0 or 1")
    return targets
