"""A task pool without tasks: it looks at the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fusion_eval.errors import ConfigError
from fusion_eval.taskpool.base import BaseTaskPool

__all__ = ["DummyTaskPool"]


@dataclass(frozen=True, eq=False)
class DummyTaskPool(BaseTaskPool):
    """Reports a model's parameter counts and can save it: to try a merge without data, or to keep it.

    Args:
        save_path: Where to save the model: a `.safetensors` file for its weights, or a directory for `save_pretrained`
            of a Hugging Face model. None: it is not saved.

    Example:
        >>> DummyTaskPool().evaluate(nn.Linear(3, 2))
        {'model': {'parameters': 8.0, 'trainable_parameters': 8.0, 'bytes': 32.0}}
    """

    save_path: str | None = None

    def evaluate(self, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        """Count the parameters of `model`, shared ones once, and save it if asked to.

        Raises:
            ConfigError: if `save_path` is a directory and the model has no `save_pretrained`.
        """
        parameters = list(model.parameters())
        counts = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        }
        if self.save_path is not None:
            _save(model, Path(self.save_path))
        return {"model": {name: float(count) for name, count in counts.items()}}


def _save(model: nn.Module, path: Path) -> None:
    backbone: Any = getattr(model, "backbone", model)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_model

        save_model(backbone, str(path))
    elif hasattr(backbone, "save_pretrained"):
        backbone.save_pretrained(path)
    else:
        raise ConfigError(
            f"save_path: {type(backbone).__name__} has no save_pretrained; give a .safetensors file, not {path}"
        )
