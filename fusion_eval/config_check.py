"""Refuse a config that cannot be built, before anything is: targets, keys, and scalars for what has parts."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

from fusion_eval.errors import ConfigError, suggest

__all__ = ["check_node", "join_keys", "public_name"]

_RESERVED = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}


def check_node(node: Any, where: str) -> None:
    """Check each target below a node, its keys and the kind of its values.

    Args:
        node: Resolved, of dicts and lists.
        where: Its key, for messages.

    Raises:
        ConfigError: a target cannot be imported, does not have a key or misses one, or a scalar is given for what has
            parts, as in `data.cache=off`.
    """
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        _check_target(node, where)
    for key, child in items:
        check_node(child, join_keys(where, str(key)))


def join_keys(where: str, key: str) -> str:
    """A key below another one, or below a file, which ends in a colon.

    Example:
        >>> join_keys("data", "cache"), join_keys("pool.yaml:", "tasks"), join_keys("", "")
        ('data.cache', 'pool.yaml: tasks', 'the config')
    """
    separator = " " if where.endswith(":") else "."
    return separator.join(part for part in (where, key) if part) or "the config"


def public_name(target: Callable[..., Any]) -> str:
    """The shortest importable name of a class or function: the package that exports it rather than its file.

    Raises:
        ConfigError: it has none.

    Example:
        >>> from fusion_eval.merging import Ties
        >>> public_name(Ties)
        'fusion_eval.merging.Ties'
    """
    name, parts = target.__qualname__, target.__module__.split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is not None and module.__dict__.get(name.split(".")[0]) is not None and _find(module, name) == target:
            return ".".join([*parts[:end], name])
    raise ConfigError(f"{target!r} cannot be written as YAML: it is not importable by name")


def _find(module: Any, name: str) -> Any:
    return functools.reduce(lambda owner, part: getattr(owner, part, None), name.split("."), module)


def _check_target(node: dict[str, Any], where: str) -> None:
    try:
        target = get_object(str(node["_target_"]))
    except Exception as error:
        raise ConfigError(f"{join_keys(where, '_target_')}: {_explain(str(node['_target_']), error)}") from error
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    given = node.keys() - _RESERVED
    unknown = sorted(given - parameters.keys())
    if unknown:
        raise ConfigError(f"{join_keys(where, unknown[0])}: unknown key{suggest(unknown[0], parameters)}")
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    missing = [name for name in required[len(node.get("_args_", ())) :] if name not in given]
    if missing and not node.get("_partial_"):
        raise ConfigError(f"{join_keys(where, missing[0])}: a value is required by {node['_target_']}")
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        for name in sorted(given):
            _check_kind(node[name], _alternatives(target, name), join_keys(where, name))


def _explain(target: str, error: Exception) -> str:
    package, _, name = target.rpartition(".")
    public = getattr(sys.modules.get(package), "__all__", None)
    return f"cannot import {target!r}{suggest(name, public) if public else f': {error}'}"


def _check_kind(value: Any, alternatives: tuple[type, ...], where: str) -> None:
    """Refuse a scalar where only things with parts will do; whether a scalar is the right one the constructor knows."""
    if isinstance(value, (bool, int, float, str)) and alternatives and all(map(_has_parts, alternatives)):
        expected = " or ".join(_describe(alternative) for alternative in alternatives)
        raise ConfigError(f"{where}: expected {expected}, found {value!r}")
    if isinstance(value, (bool, int, float)) and alternatives and all(map(_is_text, alternatives)):
        raise ConfigError(f"{where}: expected text, found {value!r}; in quotes it is one: '\"{value}\"'")


@functools.cache
def _alternatives(owner: type, name: str) -> tuple[type, ...]:
    """The classes that the annotation of a field names, without None; `object` stands for what cannot be told."""
    for base in owner.__mro__:
        annotation = inspect.get_annotations(base).get(name)
        if annotation is not None:
            hint: Any = object
            with suppress(NameError, TypeError):  # imported for type checkers only, a ClassVar
                annotated: Any = SimpleNamespace(__annotations__={name: annotation})
                hint = get_type_hints(annotated, vars(sys.modules[base.__module__]))[name]
            members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            classes = (get_origin(member) or member for member in members if member is not NoneType)
            return tuple(kind if isinstance(kind, type) and kind is not Any else object for kind in classes)
    return ()


def _has_parts(kind: type) -> bool:
    if kind is object or getattr(kind, "_is_protocol", False):
        return False
    return not issubclass(kind, (bool, int, float, str, os.PathLike))


def _is_text(kind: type) -> bool:
    return issubclass(kind, (str, os.PathLike))


def _describe(kind: type) -> str:
    if issubclass(kind, Mapping):
        return "a mapping"
    if kind.__module__ in ("builtins", "collections.abc"):
        return "a list" if issubclass(kind, Iterable) else "something to call"
    if dataclasses.is_dataclass(kind):
        return f"{public_name(kind)} with the keys {', '.join(field.name for field in dataclasses.fields(kind))}"
    return public_name(kind)
