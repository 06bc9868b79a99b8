"""The help of the command, without composing a config: it must not take longer the more options there are."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import TYPE_CHECKING

import yaml

from fusion_eval.config import config_modules

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = ["help_text"]

_OF_HYDRA = ("hydra/launcher", "hydra/sweeper")
"""What a user chooses of Hydra's own groups."""


def help_text() -> str:
    """The template of `conf/hydra/help/fusion_eval.yaml`, with the groups that exist and their options.

    Example:
        >>> "racing: off, on" in help_text()
        True
        >>> "hub/gsm8k, hub/gtsrb" in help_text()  # options in a folder of their group: dataset=hub/gsm8k
        True
    """
    roots = [files(module) for module in config_modules().values()]
    parts = yaml.safe_load((roots[0] / "hydra" / "help" / "fusion_eval.yaml").read_text(encoding="utf-8"))
    options: dict[str, list[str]] = {}
    for root in roots:
        names = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name != "hydra"]
        for group in (*names, *_OF_HYDRA):
            options.setdefault(group, []).extend(_options(root.joinpath(*group.split("/"))))
    groups = "".join(f"{group}: {_lines(names)}\n" for group, names in sorted(options.items()) if names)
    text = parts["template"].replace("${hydra.help.header}", parts["header"])
    return Template(text.replace("${hydra.help.footer}", parts["footer"])).substitute(APP_CONFIG_GROUPS=groups)


def _options(folder: Traversable, prefix: str = "") -> Iterator[str]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            yield from _options(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml")


def _lines(names: list[str]) -> str:
    """The options of a group; those in folders on lines of their own."""
    ordered = sorted(names, key=lambda name: ("/" in name, name))
    folders = groupby(ordered, key=lambda name: name.rpartition("/")[0])
    return "\n  ".join(", ".join(together) for _, together in folders)
