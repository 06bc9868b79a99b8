"""What the jobs of a sweep in one process have in common is built, and looked up, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from fusion_eval.config import build, to_config
from fusion_eval.errors import ConfigError

if TYPE_CHECKING:
    from fusion_eval.engine import Runner
    from fusion_eval.models import ModelPool
    from fusion_eval.report import References, Report
    from fusion_eval.stamps import Stamp
    from fusion_eval.taskpool import LMEvalTaskPool, TaskPool

__all__ = ["build_once", "file_of", "named_files", "references_once", "runner_once"]

_built: dict[str, tuple[str, Any]] = {}
"""Place in the config to what stood there last, and what it described."""

_references: dict[str, tuple[Stamp, References]] = {}


def build_once(node: DictConfig, where: str) -> Any:
    """What a config describes; where the job before had the same in this place, what was built for it.

    Only for values, such as pools: nothing of one job may show in another.

    Args:
        node: With `_target_`.
        where: Key of the node.

    Raises:
        ConfigError: See `build`.
    """
    if OmegaConf.missing_keys(node):
        return build(node, where)
    text = json.dumps(OmegaConf.to_container(node, resolve=True), default=repr)
    if _built.get(where, ("",))[0] != text:
        _built[where] = text, build(node, where)
    return _built[where][1]


def runner_once(node: DictConfig) -> Runner:
    """The runner that a config describes, with the Trainer of the job before, which takes as long to make as two tasks.

    One whose Trainer has loggers or callbacks is built anew: they are for one job.

    Args:
        node: The config's `runner`.

    Raises:
        ConfigError: See `build`.
    """
    trainer = node.get("trainer") if isinstance(node, DictConfig) else None
    plain = isinstance(trainer, DictConfig) and not any(map(OmegaConf.is_config, trainer.values()))
    runner: Runner = build_once(node, "runner") if plain else build(node, "runner")
    return runner


def references_once(pool: TaskPool | LMEvalTaskPool, models: ModelPool, runner: Runner, report: Report) -> References:
    """Base and experts on the tasks of a report; where the job before had the same ones, its results.

    They are the same if pools and runner are described by the same config, the files of the checkpoints are unchanged,
    and the data is what it was. References that failed are tried again.

    Args:
        pool: The tasks.
        models: Base and experts.
        runner: As for `evaluate_references`.
        report: Of the merged model: which tasks, and which data.
    """
    from fusion_eval.stamps import stamp
    from fusion_eval.taskpool import evaluate_references

    data = {name: result.fingerprints.get("data") for name, result in report.results.items()}
    try:
        described = [to_config(value) for value in (pool, models, runner, data)]
        before = stamp(named_files(models, described[1]))
    except (ConfigError, OSError):  # a lambda, a logger; a checkpoint that is missing, or on a hub
        return evaluate_references(pool, models, runner, tasks=report)
    key = json.dumps(described, sort_keys=True)
    if key not in _references or _references[key][0] != before:
        found = evaluate_references(pool, models, runner, tasks=report)
        if found.failures:
            return found
        _references.clear()
        _references[key] = before, found
    return _references[key][1]


def named_files(models: ModelPool, config: Any) -> list[Path]:
    """The files of all checkpoints, and whatever else a config names.

    Args:
        models: Base and experts.
        config: Plain values, as `to_config` returns them.
    """
    checkpoints = [file_of(text) for text in (models.base, *models.experts.values())]
    named = [file_of(text) for text in _strings(config) if text]  # "" is "."
    return [*checkpoints, *(path for path in named if path.exists())]


def file_of(text: str) -> Path:
    """The file or directory that a path, or the `pkg://` name of something inside a package, stands for."""
    if not text.startswith("pkg://"):
        return Path(text).expanduser()
    package, _, inner = text.removeprefix("pkg://").partition("/")
    try:
        return Path(str(resources.files(package) / inner))
    except (ImportError, ValueError, TypeError):
        return Path(text)


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _strings(value)
