"""What zero-shot heads are made from: names of classes, and templates that make prompts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from fusion_eval.errors import ConfigError

__all__ = ["Prompts", "known_classes"]

_PACKAGED = files("fusion_eval.models.clip") / "classes"
_SUFFIX = ".yaml"


def known_classes() -> list[str]:
    """Data sets whose class names and templates come with this package.

    Example:
        >>> "sun397" in known_classes()
        True
    """
    return sorted(file.name.removesuffix(_SUFFIX) for file in _PACKAGED.iterdir() if file.name.endswith(_SUFFIX))


@dataclass(frozen=True)
class Prompts:
    """Class names, and templates with `{}` where a class name goes.

    Raises:
        ConfigError: there is no class or no template, one is no string, or a template has no `{}`.

    Example:
        >>> Prompts(("cat", "dog"), ("a {}.", "the {}.")).texts
        ['a cat.', 'the cat.', 'a dog.', 'the dog.']
    """

    classes: Sequence[str]
    templates: Sequence[str]

    def __post_init__(self) -> None:
        for field, example in (("classes", "[cat, dog]"), ("templates", "['a photo of a {}.']")):
            values = getattr(self, field)
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise ConfigError(f"{field}: expected a list of strings such as {example}, found {values!r}")
            for value in values:
                if not isinstance(value, str) or not value.strip():
                    raise ConfigError(f"{field}: {value!r} is no text; put it in quotes")
                if field == "templates" and "{}" not in value:
                    raise ConfigError(f"templates: {value!r} has no {{}} where the name of the class goes")
            object.__setattr__(self, field, tuple(values))  # YAML gives lists

    @classmethod
    def read(cls, source: str) -> Prompts:
        """Those of a data set that `known_classes` lists, or of a YAML file with the keys `classes` and `templates`.

        Raises:
            ConfigError: there is no such file, or it is not in this form.

        Example:
            >>> Prompts.read("eurosat").texts[0]
            'a centered satellite photo of annual crop land.'
        """
        file: Any = _PACKAGED / f"{source}{_SUFFIX}" if source in known_classes() else Path(source).expanduser()
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{source}: cannot be read: {error}") from error
        if not isinstance(content, dict) or content.keys() != {"classes", "templates"}:
            raise ConfigError(f"{source}: expected a mapping with the keys classes and templates")
        try:
            return cls(**content)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @property
    def texts(self) -> list[str]:
        """All prompts, those of one class one after the other."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]
