"""The original YAML form of a task pool, turned into the Hydra form.

    type: classification
    dataset_type: embedded
    tasks:
      - {name: first, dataset: optdigits, metric: accuracy}
      - {name: second, dataset: {path: digits.npz}, dataset_type: arrays, metric: [accuracy, loss]}

`dataset` and `metric` are the name of an option of the config groups `dataset` and `metrics`, or a mapping with
`_target_`; a `dataset` without `_target_` holds the arguments of its `dataset_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_eval.config import compose_option
from fusion_eval.errors import ConfigError, suggest

__all__ = ["is_original_form", "to_hydra_form"]

_TYPES = {"classification": "fusion_eval.tasks.Classification"}

_DATASET_TYPES = {
    "arrays": "fusion_eval.data.Arrays",
    "embedded": "fusion_eval.data.Embedded",
    "folder": "fusion_eval.data.ImageFolder",
    "huggingface": "fusion_eval.data.HuggingFace",
    "mapstyle": "fusion_eval.data.MapStyle",
    "table": "fusion_eval.data.Table",
}

_POOL_KEYS = {"type": True, "tasks": True, "dataset_type": False}
_TASK_KEYS = {"name": True, "dataset": True, "metric": True, "dataset_type": False, "head": False}
"""Key to whether it is required."""


def is_original_form(config: Mapping[str, Any]) -> bool:
    """Whether a config is in the original form: it names a `type`, or lists its tasks, and has no `_target_`."""
    return "_target_" not in config and ("type" in config or isinstance(config.get("tasks"), list))


def to_hydra_form(config: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The same pool with `_target_`s and a mapping of tasks.

    A task whose data set is given by name uses the head of that name, since in this form a task may be called anything.

    Raises:
        ConfigError: names the file, the field and what would be right.
    """
    where = source or "task pool"
    _check_keys(config, _POOL_KEYS, where)
    target = _lookup(_TYPES, config["type"], f"{where}: type")
    entries = config["tasks"]
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: tasks: expected a list of mappings with {_names(_TASK_KEYS)}, found {entries!r}")
    tasks: dict[str, Any] = {}
    for position, entry in enumerate(entries):
        place = f"{where}: tasks[{position}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{place}: expected a mapping with {_names(_TASK_KEYS)}, found {entry!r}")
        _check_keys(entry, _TASK_KEYS, place)
        name = entry["name"]
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{place}.name: expected a string, found {name!r}")
        if name in tasks:
            raise ConfigError(f"{place}.name: {name!r} names an earlier task too; every task needs a name of its own")
        kind = entry.get("dataset_type", config.get("dataset_type"))
        tasks[name] = {
            "_target_": target,
            "data": _data(entry["dataset"], kind, place),
            "metrics": _metrics(entry["metric"], place),
            "head": entry.get("head", entry["dataset"] if isinstance(entry["dataset"], str) else None),
        }
    return {"_target_": "fusion_eval.taskpool.TaskPool", "tasks": tasks}


def _data(dataset: Any, kind: Any, where: str) -> dict[str, Any]:
    target = None if kind is None else _lookup(_DATASET_TYPES, kind, f"{where}.dataset_type")
    if isinstance(dataset, str):
        config = _option("dataset", dataset, f"{where}.dataset")
        if target not in (None, config["_target_"]):
            raise ConfigError(f"{where}.dataset: {dataset!r} is a {config['_target_']}, not of dataset_type {kind!r}")
        return config
    if not isinstance(dataset, Mapping):
        raise ConfigError(f"{where}.dataset: expected a name or a mapping, found {dataset!r}")
    if "_target_" in dataset:
        return dict(dataset)
    if target is None:
        raise ConfigError(f"{where}.dataset: needs `_target_`, or a dataset_type{suggest('', _DATASET_TYPES)}")
    return {"_target_": target, **dataset}


def _metrics(metric: Any, where: str) -> dict[str, Any]:
    if isinstance(metric, str):
        return _option("metrics", metric, f"{where}.metric")
    if isinstance(metric, list) and metric and all(isinstance(name, str) for name in metric):
        return {key: value for name in metric for key, value in _option("metrics", name, f"{where}.metric").items()}
    if isinstance(metric, Mapping) and "_target_" in metric:
        name = str(metric["_target_"]).rpartition(".")[2]
        return {name: {"_partial_": True, **metric}}
    raise ConfigError(
        f"{where}.metric: expected a name, a list of names or a mapping with `_target_`, found {metric!r}"
    )


def _option(group: str, name: str, where: str) -> dict[str, Any]:
    try:
        return compose_option(group, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _lookup(known: Mapping[str, str], name: Any, where: str) -> str:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where}: unknown type {name!r}{suggest(str(name), known)}")
    return known[name]


def _check_keys(mapping: Mapping[str, Any], keys: Mapping[str, bool], where: str) -> None:
    for key in mapping:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), keys)}")
    for key, required in keys.items():
        if required and mapping.get(key) is None:
            raise ConfigError(f"{where}: {key!r} is missing; required: {_names(keys)}")


def _names(keys: Mapping[str, bool]) -> str:
    return ", ".join(key for key, required in keys.items() if required)
