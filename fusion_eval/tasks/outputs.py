"""Reading what a model under test returns: logits, features, a Hugging Face output, or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusion_eval.errors import TaskError

__all__ = ["forward", "logits_of"]

_FEATURES = ("features", "image_embeds", "text_embeds", "pooler_output")
"""Where Hugging Face models and common wrappers put one feature vector a sample, in order of preference."""

_NO_HEAD = "; of features the task makes logits by a head, and has none: do model pool and task pool go together?"


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call the model: a mapping of inputs becomes keyword arguments.

    Raises:
        TaskError: if the model fails on them; the message gives their shapes.
    """
    try:
        return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    except Exception as error:
        named = inputs.items() if isinstance(inputs, Mapping) else [("inputs", inputs)]
        shapes = ", ".join(f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in named)
        hint = _beyond_vocabulary(model, inputs)
        raise TaskError(f"the model failed on {shapes}: {type(error).__name__}: {error}{hint}") from error


def _beyond_vocabulary(model: nn.Module, inputs: Any) -> str:
    """What there is to say where a token is none of the model's; nothing where that cannot be told, as on a GPU."""
    backbone: Any = getattr(model, "backbone", model)
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.device.type != "cpu" or not hasattr(backbone, "get_input_embeddings"):
        return ""
    size, largest = getattr(backbone.get_input_embeddings(), "num_embeddings", None), int(ids.max())
    if size is None or largest < size:
        return ""
    return f"; there is a token {largest}, but the model has {size}: is the tokenizer that of its base?"


def logits_of(output: Any, head: nn.Module | None, inputs: Any) -> Tensor:
    """The logits, shape `(n, c)`, in a model's output; with a head, what the head makes of the features in it.

    Args:
        output: What the model returned.
        head: The head of the task, if any. One with a true `takes_output`, such as that of a `CheckpointHead`, finds
            the features itself: it is called with `output` and `inputs`.
        inputs: What the model was given.

    Raises:
        TaskError: if the output holds no logits (or, with a head, no features).
    """
    if head is None:
        return _matrix(_pick(output, ("logits",), _NO_HEAD), "logits")
    if getattr(head, "takes_output", False):
        return _matrix(head(output, inputs), "logits of the head")
    features = _matrix(_pick(output, _FEATURES), "features")
    width = getattr(head, "in_features", features.shape[1])
    if features.shape[1] != width:
        raise TaskError(f"the model's features have width {features.shape[1]}, the head of the task takes {width}")
    return _matrix(head(features), "logits of the head")


def _pick(output: Any, names: tuple[str, ...], hint: str = "") -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for name in names:
            if output.get(name) is not None:
                return output[name]
        found = f"a mapping with {', '.join(map(str, output))}"
    else:
        found = type(output).__name__
    raise TaskError(f"the model returned {found}; expected a tensor or a mapping with {' or '.join(names)}{hint}")


def _matrix(tensor: Any, what: str) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.ndim != 2:
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TaskError(f"the model's {what} should have shape (samples, width), found {shape}")
    return tensor
