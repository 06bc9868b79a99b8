"""The task pools of FusionBench's first form (up to version 0.1), turned into tasks of ours.

    type: clip_vit_classification
    dataset_type: huggingface_image_classification
    tasks:
      - {name: mnist, dataset: {name: mnist, split: test}}
    clip_model: openai/clip-vit-base-patch32

    type: NYUv2TaskPool
    data_dir: .cache
    tasks: [segmentation, depth, normal]

What belongs to a run (`batch_size`, `num_workers`, ...) is taken from the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_eval.errors import ConfigError
from fusion_eval.taskpool.original_fields import check_keys, look_up, named_tasks, option, text

__all__ = ["clip_tasks", "nyuv2_tasks"]

_log = logging.getLogger(__name__)

_OF_THE_RUN = {"name": False, "batch_size": False, "num_workers": False, "fast_dev_run": False}
_CLIP_KEYS = {
    "type": True,
    "tasks": True,
    "clip_model": True,
    "dataset_type": False,
    "corruption": False,
    **_OF_THE_RUN,
}
_CLIP_TASK_KEYS = {**_OF_THE_RUN, "name": True, "dataset": True}
_DATASET_KEYS = {"name": True, "type": False, "path": False, "split": False, "kwargs": False, "object": False}
_LOAD_KEYS = {"path": False, "name": False, "split": False, "revision": False}
_NYUV2_KEYS = {"type": True, "tasks": True, "data_dir": True, **_OF_THE_RUN}


def clip_tasks(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tasks of a `clip_vit_classification` pool: zero-shot classification with the text tower of `clip_model`.

    The name of a data set says which class names and templates are meant, as in FusionBench, and so which option of
    `task/clip` a task becomes.

    Args:
        config: The pool.
        where: File, for messages.

    Raises:
        ConfigError: names the file, the field and what would be right.
    """
    check_keys(config, _CLIP_KEYS, where)
    _mention_ignored(config, where)
    clip_model = text(config, "clip_model", f"{where}: ")
    tasks: dict[str, Any] = {}
    for name, (entry, place) in named_tasks(config, _CLIP_TASK_KEYS, where).items():
        if not isinstance(entry["dataset"], Mapping):
            raise ConfigError(f"{place}.dataset: expected a mapping with name, found {entry['dataset']!r}")
        tasks[name] = _clip_task(entry["dataset"], config.get("dataset_type"), f"{place}.dataset")
        tasks[name]["data"]["transform"]["path"] = clip_model
        tasks[name]["head"]["text_tower"]["checkpoint"] = clip_model
    return tasks


def nyuv2_tasks(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tasks of a `NYUv2TaskPool`, whose data lies in `data_dir/nyuv2`; arguments and errors as `clip_tasks`."""
    check_keys(config, _NYUV2_KEYS, where)
    _mention_ignored(config, where)
    root = str(Path(text(config, "data_dir", f"{where}: ")) / "nyuv2")
    names = config["tasks"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: tasks: expected a list of segmentation, depth and normal, found {names!r}")
    tasks: dict[str, Any] = {}
    for position, name in enumerate(names):
        place = f"{where}: tasks[{position}]"
        if name in tasks:
            raise ConfigError(f"{place}: {name!r} is in the list already")
        tasks[name] = option("task/nyuv2", name, place)
        tasks[name]["data"] |= {"root": root, "expected_size": None}
    return tasks


def _clip_task(dataset: Mapping[str, Any], default_type: Any, where: str) -> dict[str, Any]:
    check_keys(dataset, _DATASET_KEYS, where)
    name = (
        text(dataset, "name", f"{where}.").rpartition("/")[2].lower().replace("-", "_")
    )  # tanganke/stanford-cars, ...
    task = option("task/clip", name, f"{where}.name")
    kind = look_up(_LOADERS, dataset.get("type", default_type), f"{where}.type")
    given = {key: value for key, value in kind(dataset, where).items() if value is not None}
    path = given.pop("path")
    if "/" in path or Path(path).is_dir():  # ids without an owner were those of the data sets that everyone knows
        if path != task["data"]["path"]:
            given |= {"expected_size": None, "size_note": None, "name": given.get("name")}
        given["path"] = path
    task["data"] |= given
    return task


def _by_name(dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`load_dataset(path or name, **kwargs)[split]`."""
    arguments = dataset.get("kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}.kwargs: expected a mapping, found {arguments!r}")
    check_keys(arguments, _LOAD_KEYS, f"{where}.kwargs")
    return {"path": dataset.get("path") or dataset["name"], **arguments, "split": dataset.get("split", "test")}


def _by_call(dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A call of `datasets.load_dataset` as Hydra writes it."""
    call = dataset.get("object")
    if not isinstance(call, Mapping) or call.get("_target_") != "datasets.load_dataset":
        found = call.get("_target_") if isinstance(call, Mapping) else call
        raise ConfigError(f"{where}.object: expected a mapping with _target_: datasets.load_dataset, found {found!r}")
    positional = dict(zip(("path", "name"), call.get("_args_", ()), strict=False))
    arguments = {key: value for key, value in call.items() if key not in ("_target_", "_args_")} | positional
    check_keys(arguments, {**_LOAD_KEYS, "path": True}, f"{where}.object")
    return {"split": dataset.get("split"), **arguments}


_LOADERS = {"huggingface_image_classification": _by_name, "instantiate": _by_call}


def _mention_ignored(config: Mapping[str, Any], where: str) -> None:
    settings = [f"{key}={config[key]}" for key in ("batch_size", "num_workers") if config.get(key) is not None]
    if settings:
        _log.info("%s: %s are settings of the run: give them on the command line", where, " and ".join(settings))
