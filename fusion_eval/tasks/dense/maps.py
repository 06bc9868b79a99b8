"""From a model to a map: one vector for each pixel of the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fusion_eval.errors import TaskError
from fusion_eval.tasks.outputs import forward

__all__ = ["predict_map"]

_MAPS = ("logits", "predicted_depth", "features", "last_hidden_state")
"""Where Hugging Face models and common wrappers put a map, in order of preference."""


def predict_map(model: nn.Module, head: nn.Module | None, inputs: Any, targets: Tensor, channels: int) -> Tensor:
    """Run the model, decode, and scale the map to the size of the targets.

    Scaling is bilinear with aligned corners, as in FusionBench and MTAN (arXiv 1803.10704).

    Args:
        model: Returns a map `(n, c, y, x)`, or `(n, y, x)` for one channel, or a mapping that holds one.
        head: The decoder of the task, from the map of the model to one with `channels`; None: the model decodes.
        inputs: A tensor, or a mapping of keyword arguments.
        targets: Shape `(n, ..., height, width)`.
        channels: How many the map should have.

    Returns:
        Shape `(n, channels, height, width)`, float32.

    Raises:
        TaskError: the model returns no map, or one of another number of channels.
    """
    output = forward(model, inputs)
    if getattr(head, "takes_output", False):
        found = head(output, inputs)  # type: ignore[misc]
    else:
        found = _map_in(output)
        found = found if head is None else head(found)
    if found.ndim == 3:
        found = found.unsqueeze(1)
    if found.ndim != 4 or found.shape[:2] != (len(targets), channels):
        hint = "" if head else "; if these are features, the task needs a head"
        expected = f"({len(targets)}, {channels}, height, width)"
        raise TaskError(f"the map should have shape {expected}, found {tuple(found.shape)}{hint}")
    return interpolate(found.float(), targets.shape[-2:], mode="bilinear", align_corners=True)


def _map_in(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for name in _MAPS:
            if isinstance(output.get(name), Tensor):
                found: Tensor = output[name]
                return found
    raise TaskError(f"the model returned {type(output).__name__} without any of {', '.join(_MAPS)}; expected a map")
