"""The help of the command, without composing a config: it must not take longer the more options there are."""

from __future__ import annotations

from importlib.resources import files
from string import Template

import yaml

from fusion_eval.config import config_modules

__all__ = ["help_text"]


def help_text() -> str:
    """The template of `conf/hydra/help/fusion_eval.yaml`, with the groups that exist and their options.

    Example:
        >>> "racing: off, on" in help_text()
        True
    """
    roots = [files(module) for module in config_modules().values()]
    parts = yaml.safe_load((roots[0] / "hydra" / "help" / "fusion_eval.yaml").read_text(encoding="utf-8"))
    options: dict[str, list[str]] = {}
    for group in (entry for root in roots for entry in root.iterdir() if entry.is_dir() and entry.name != "hydra"):
        names = [entry.name.removesuffix(".yaml") for entry in group.iterdir() if entry.name.endswith(".yaml")]
        options.setdefault(group.name, []).extend(names)
    groups = "".join(f"{group}: {', '.join(sorted(names))}\n" for group, names in sorted(options.items()) if names)
    text = parts["template"].replace("${hydra.help.header}", parts["header"])
    return Template(text.replace("${hydra.help.footer}", parts["footer"])).substitute(APP_CONFIG_GROUPS=groups)
