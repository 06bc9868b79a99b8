"""The original YAML form of a task pool, turned into the Hydra form.

    type: classification
    dataset_type: embedded
    tasks:
      - {name: first, dataset: optdigits, metric: accuracy}
      - {name: second, dataset: {path: digits.npz}, dataset_type: arrays, metric: [accuracy, loss]}

`dataset` and `metric` are the name of an option of the config groups `dataset` and `metrics`, or a mapping with
`_target_`; a `dataset` without `_target_` holds the arguments of its `dataset_type`. The `type`s of FusionBench's first
form are in `original_fusion_bench`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_eval.errors import ConfigError, suggest
from fusion_eval.taskpool.original_fields import check_keys, look_up, named_tasks, option, required_names
from fusion_eval.taskpool.original_fusion_bench import clip_tasks, nyuv2_tasks

__all__ = ["is_original_form", "to_hydra_form"]

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
    if config.get("type") is None:
        raise ConfigError(f"{where}: 'type' is missing; required: {required_names(_POOL_KEYS)}")
    tasks = look_up(_TYPES, config["type"], f"{where}: type")(config, where)
    return {"_target_": "fusion_eval.taskpool.TaskPool", "tasks": tasks}


def _classification_tasks(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    check_keys(config, _POOL_KEYS, where)
    tasks: dict[str, Any] = {}
    for name, (entry, place) in named_tasks(config, _TASK_KEYS, where).items():
        kind = entry.get("dataset_type", config.get("dataset_type"))
        tasks[name] = {
            "_target_": "fusion_eval.tasks.Classification",
            "data": _data(entry["dataset"], kind, place),
            "metrics": _metrics(entry["metric"], place),
            "head": entry.get("head", entry["dataset"] if isinstance(entry["dataset"], str) else None),
        }
    return tasks


_TYPES = {
    "classification": _classification_tasks,
    "clip_vit_classification": clip_tasks,
    "NYUv2TaskPool": nyuv2_tasks,
}


def _data(dataset: Any, kind: Any, where: str) -> dict[str, Any]:
    target = None if kind is None else look_up(_DATASET_TYPES, kind, f"{where}.dataset_type")
    if isinstance(dataset, str):
        config = option("dataset", dataset, f"{where}.dataset")
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
        return option("metrics", metric, f"{where}.metric")
    if isinstance(metric, list) and metric and all(isinstance(name, str) for name in metric):
        return {key: value for name in metric for key, value in option("metrics", name, f"{where}.metric").items()}
    if isinstance(metric, Mapping) and "_target_" in metric:
        name = str(metric["_target_"]).rpartition(".")[2]
        return {name: {"_partial_": True, **metric}}
    raise ConfigError(
        f"{where}.metric: expected a name, a list of names or a mapping with `_target_`, found {metric!r}"
    )
