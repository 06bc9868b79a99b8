"""Settings of many runs without saying five hundred times what they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["flatten", "split_common"]

Settings = dict[str, Any]


def flatten(node: Any, path: str = "") -> Settings:
    """Nested settings as dotted keys; lists and empty mappings stay whole, as JSON.

    Example:
        >>> flatten({"model": {"scaling": 0.3, "weights": {}}, "seed": 0})
        {'model.scaling': 0.3, 'model.weights': '{}', 'seed': 0}
    """
    if isinstance(node, Mapping) and node:
        flat: Settings = {}
        for key, child in node.items():
            flat |= flatten(child, f"{path}.{key}".lstrip("."))
        return flat
    return {path: json.dumps(node, ensure_ascii=False) if isinstance(node, (list, Mapping)) else node}


def split_common(settings: Sequence[Settings]) -> tuple[Settings, list[Settings]]:
    """What all share, and what each has of its own.

    Example:
        >>> split_common([{"seed": 0, "scaling": 0.3}, {"seed": 0, "scaling": 0.5}])
        ({'seed': 0}, [{'scaling': 0.3}, {'scaling': 0.5}])
    """
    first, *others = settings
    common = {key: value for key, value in first.items() if all(_same(other, key, value) for other in others)}
    return common, [{key: value for key, value in own.items() if key not in common} for own in settings]


def _same(settings: Settings, key: str, value: object) -> bool:
    return key in settings and settings[key] == value
