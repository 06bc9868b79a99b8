"""What a task pool is: something that evaluates a model to a nested report, and that a YAML file describes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from typing_extensions import Self

from fusion_eval.config import build, compose_file, to_config
from fusion_eval.errors import ConfigError
from fusion_eval.taskpool.original import is_original_form, to_hydra_form

__all__ = ["BaseTaskPool"]


class BaseTaskPool(ABC):
    """A collection of tasks that evaluates models.

    A subclass is a frozen dataclass, or defines `to_config`: two pools are equal if equal configs describe them.
    """

    @abstractmethod
    def evaluate(self, model: Any, *args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        """Evaluate a model on every task.

        Args:
            model: The model under test, as a rule an `nn.Module`.
            *args: What a kind of pool needs beyond the model.
            **kwargs: Likewise.

        Returns:
            The report `{task: {metric: value}}`, for example `{"mnist": {"accuracy": 0.8, "loss": 0.2}}`.
        """

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "") -> Self:
        """Build the pool that a config describes.

        Args:
            config: The Hydra form (`_target_`, `tasks` a mapping of names to tasks) or the original form (`type`,
                `dataset_type`, `tasks` a list of mappings with `name`, `dataset` and `metric`).
            source: The file it comes from, for messages.

        Raises:
            ConfigError: duplicate names, unknown types, missing fields or unknown keys; or the pool is no `cls`.
        """
        if is_original_form(config):
            config = to_hydra_form(config, source)
        if "_target_" not in config:
            found = ", ".join(map(str, config)) or "nothing"
            raise ConfigError(f"{source or 'task pool'}: needs `_target_` or `type`, found {found}")
        pool = build(config, source and f"{source}:")
        if not isinstance(pool, cls):
            raise ConfigError(f"{source or 'task pool'}: `_target_` makes {type(pool).__name__}, not a {cls.__name__}")
        return pool

    def to_config(self) -> dict[str, Any]:
        """The pool in the Hydra form, as plain values.

        Raises:
            ConfigError: if a part of the pool (a lambda, a loaded model) cannot be described.
        """
        config: dict[str, Any] = to_config(self)
        return config

    @classmethod
    def from_yaml(cls, path: str | Path, around: Mapping[str, Any] | None = None) -> Self:
        """Read a pool from a YAML file in either form; a defaults list may name options of our config groups.

        Args:
            path: The file.
            around: What interpolations in the file and in these options find, by its key: `modelpool.base` is where
                tasks of CLIP and language models take text towers, image processors and tokenizers from.

        Raises:
            ConfigError: as `from_config`; or the file is missing or no YAML.
        """
        return cls.from_config(compose_file(Path(path), around), source=str(path))

    def to_yaml(self, path: str | Path) -> None:
        """Write the pool to a YAML file in the Hydra form, from which `from_yaml` makes an equal pool."""
        Path(path).write_text(OmegaConf.to_yaml(self.to_config()), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_config() == other.to_config()

    __hash__ = None  # type: ignore[assignment]
