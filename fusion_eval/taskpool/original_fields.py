"""Reading the fields of the original YAML forms: whatever is wrong is refused by file and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fusion_eval.config import compose_option
from fusion_eval.errors import ConfigError, suggest

__all__ = ["check_keys", "look_up", "named_tasks", "option", "required_names", "text"]

Value = TypeVar("Value")


def check_keys(mapping: Mapping[str, Any], keys: Mapping[str, bool], where: str) -> None:
    """Refuse unknown and missing keys.

    Args:
        mapping: What was read.
        keys: Key to whether it is required.
        where: File and field, for messages.

    Raises:
        ConfigError: names the key.
    """
    for key in mapping:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), keys)}")
    for key, required in keys.items():
        if required and mapping.get(key) is None:
            raise ConfigError(f"{where}: {key!r} is missing; required: {required_names(keys)}")


def required_names(keys: Mapping[str, bool]) -> str:
    """The keys that must be there.

    Example:
        >>> required_names({"name": True, "dataset": True, "head": False})
        'name, dataset'
    """
    return ", ".join(key for key, required in keys.items() if required)


def look_up(known: Mapping[str, Value], name: Any, where: str) -> Value:
    """What belongs to a name.

    Raises:
        ConfigError: the name is unknown; lists those that are known.
    """
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where}: unknown type {name!r}{suggest(str(name), known)}")
    return known[name]


def option(group: str, name: str, where: str) -> dict[str, Any]:
    """An option of a config group, composed.

    Raises:
        ConfigError: there is no such option; lists those that there are.
    """
    try:
        return compose_option(group, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """A value that should be a string.

    Raises:
        ConfigError: it is none, or empty.
    """
    value = mapping[key]
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}{key}: expected a string, found {value!r}")
    return value


def named_tasks(
    config: Mapping[str, Any], keys: Mapping[str, bool], where: str
) -> dict[str, tuple[Mapping[str, Any], str]]:
    """The list of tasks, by their names.

    Args:
        config: The pool.
        keys: Key of a task to whether it is required, `name` among them.
        where: File, for messages.

    Returns:
        Name to the entry and its place.

    Raises:
        ConfigError: there is no such list, or an entry is not as it should be.
    """
    entries = config["tasks"]
    if not isinstance(entries, list) or not entries:
        expected = required_names(keys)
        raise ConfigError(f"{where}: tasks: expected a list of mappings with {expected}, found {entries!r}")
    tasks: dict[str, tuple[Mapping[str, Any], str]] = {}
    for position, entry in enumerate(entries):
        place = f"{where}: tasks[{position}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{place}: expected a mapping with {required_names(keys)}, found {entry!r}")
        check_keys(entry, keys, place)
        name = text(entry, "name", f"{place}.")
        if name in tasks:
            raise ConfigError(f"{place}.name: {name!r} names an earlier task too; every task needs a name of its own")
        tasks[name] = entry, place
    return tasks
