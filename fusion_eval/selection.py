"""Selection without leakage: a sweep on one split, then the one chosen configuration on the split of its tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from fusion_eval.errors import ConfigError, FusionEvalError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusion_eval.data import DataSource
    from fusion_eval.report.runs import Run
    from fusion_eval.tasks import Calibration, Task

__all__ = ["choose", "conclude_selection", "on_selection_split", "other_data", "tasks_on_split", "withdraw_selection"]

_CONFIG = "chosen"
_NOT_INHERITED = re.compile(
    r"((LOCAL|NODE|GROUP)_)?RANK|(LOCAL_)?WORLD_SIZE|(MASTER|SLURM|TORCHELASTIC)_.*|FUSION_EVAL_SWEEP_DIR"
)
"""Environment variables that would make the run of the chosen configuration one of several, or a part of the sweep."""


def on_selection_split(cfg: DictConfig) -> DictConfig:
    """The config of a job of a sweep: if `select_on` names a split, the one that evaluates that split, and says so.

    Raises:
        ConfigError: `split` or `selected_on` is set too.
    """
    if cfg.select_on is None:
        return cfg
    for key in ("split", "selected_on"):
        if cfg[key] is not None:
            raise ConfigError(f"{key}={cfg[key]} and select_on={cfg.select_on} exclude each other: leave {key} out")
    recorded = "test" if str(cfg.select_on).startswith("test") else "val"  # "validation", "dev", "train[90%:]", ...
    chosen: DictConfig = OmegaConf.merge(cfg, {"split": cfg.select_on, "selected_on": recorded})  # type: ignore[assignment]
    return chosen


def tasks_on_split(tasks: Mapping[str, Task], split: str | None, other: bool = False) -> dict[str, Task]:
    """The same tasks on another split of their data; all as they are where `split` is None.

    Args:
        tasks: Task name to task.
        split: What stands for `split` of each task's data source.
        other: Whether the split must be another one than the task's own.

    Raises:
        ConfigError: A data source has no splits, not this one, or it is the task's own and must not be.

    Example:
        >>> from fusion_eval import build, compose
        >>> tasks = build(compose().taskpool).tasks
        >>> tasks_on_split(tasks, "val")["mnist"].data
        Embedded(name='mnist', split='val')
    """
    if split is None:
        return dict(tasks)
    found = {}
    for name, task in tasks.items():
        data: Any = task.data
        own = getattr(data, "split", None)
        if own is None:
            raise ConfigError(
                f"task {name!r}: {type(data).__name__} has no splits to choose {split!r} from; give it data that has,"
                f" or leave it out (~taskpool.tasks.{name})"
            )
        if other and own == split:
            raise ConfigError(
                f"task {name!r}: what is chosen on split {split!r} must be evaluated on another, and its data names the"
                f" same; give it another one (taskpool.tasks.{name}.data.split=test)"
            )
        try:
            found[name] = replace(task, data=replace(data, split=split))
        except FusionEvalError as error:
            raise type(error)(f"task {name!r}: {error}") from error
    return found


def other_data(
    tasks: Mapping[str, Task], splits: Sequence[str], calibration: Calibration | None = None
) -> dict[str, dict[str, DataSource]]:
    """The data that a run uses beside what it evaluates.

    Args:
        tasks: Task name to task.
        splits: Which splits of each task's data.
        calibration: What the merging method looks at, if it looks at data.

    Returns:
        Task name and split (or "calibration") to data; what a task is evaluated on is left out.

    Raises:
        ConfigError: A data source has no splits, or there is no other data.

    Example:
        >>> from fusion_eval import build, compose
        >>> other_data(build(compose().taskpool).tasks, ["test", "val"])["mnist"]
        {'val': Embedded(name='mnist', split='val')}
    """
    found: dict[str, dict[str, DataSource]] = {}
    for name, task in tasks.items():
        named = {split: tasks_on_split({name: task}, split)[name].data for split in splits}
        if calibration is not None and name in calibration.data:
            named["calibration"] = calibration.data[name]
        elif calibration is not None:
            named[calibration.split] = tasks_on_split({name: task}, calibration.split)[name].data
        found[name] = {split: data for split, data in named.items() if data != task.data}
    if not any(found.values()):
        raise ConfigError("overlap: this run uses no other data than what it evaluates; name a split: overlap=[train]")
    return found


def choose(directory: Path) -> Run | None:
    """The best complete run of a sweep with `select_on`, by the objective; None where there is none.

    Raises:
        FusionEvalError: The runs cannot be ranked.
    """
    from fusion_eval.report.headline import shared_objective
    from fusion_eval.report.leaderboard import leaderboard
    from fusion_eval.report.runs import find_runs

    runs = [run for run in find_runs([directory])[0] if run.status == "complete" and run.config.get("select_on")]
    if not runs:
        return None
    objective = runs[0].config["objective"]
    if objective is not None and shared_objective(runs) is None:
        raise ConfigError(f"select_on: no run has the objective {objective!r}, or not all have the same")
    best = leaderboard(runs, resamples=1).entries[0]
    return next(run for run in runs if run.directory == best.directory)


def withdraw_selection(directory: Path) -> None:
    """Remove the report of what an earlier sweep in the same place selected."""
    from fusion_eval.report.runs import SELECTED

    (directory / SELECTED / "report.json").unlink(missing_ok=True)


def conclude_selection(directory: Path) -> bool:
    """Evaluate the chosen configuration of a sweep with `select_on`, into `<directory>/selected`.

    A process of its own does it: the sweep's may hold a device, or be one of several that are not there any more. Its
    primary config is written beside the report, so that anyone can run it again:
    `fusion-eval --config-dir <directory>/selected --config-name chosen`.

    It runs on one machine, whatever started the sweep.

    Returns:
        False if it failed, or every job of the sweep did; True where nothing was to be chosen.

    Raises:
        FusionEvalError: The runs of the sweep cannot be ranked.
    """
    from fusion_eval.report.runs import SELECTED

    selected = directory / SELECTED
    run = choose(directory)
    if run is None:
        return True
    selected.mkdir(exist_ok=True)
    (selected / f"{_CONFIG}.yaml").write_text(OmegaConf.to_yaml(_final(run, selected)), encoding="utf-8")
    objective = run.config["objective"] or "the mean of the primary metric"
    print(f"\nchosen on {run.config['select_on']} by {objective}: {run.directory}; it alone, on the tasks' own split:")
    sys.stdout.flush()
    command = [sys.executable, "-m", "fusion_eval", "--config-dir", str(selected), "--config-name", _CONFIG]
    environment = {key: value for key, value in os.environ.items() if not _NOT_INHERITED.fullmatch(key)}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def _final(run: Run, selected: Path) -> dict[str, Any]:
    """The chosen config on the tasks' own split; what the job wrote into its directory goes into that of this run."""
    moved: dict[str, Any] = _move(run.config, run.directory, selected.resolve())
    return {
        "defaults": ["_self_", {"override hydra/job_logging": "fusion_eval"}],
        **moved,
        "split": None,
        "select_on": None,
        "overlap": _searched(run.config),
        "hydra": {
            "run": {"dir": str(selected.resolve())},
            "mode": "RUN",
            "job": {"name": "fusion-eval", "chdir": False},
        },
    }


def _searched(config: Mapping[str, Any]) -> list[str] | bool:
    """`overlap` for the chosen config: what it was chosen on is searched too, if anything is."""
    overlap = config.get("overlap")
    return [*([] if overlap is True else overlap), config["select_on"]] if overlap else False


def _move(node: Any, source: Path, target: Path) -> Any:
    """Change every path below `source` into one below `target`."""
    if isinstance(node, dict):
        return {key: _move(child, source, target) for key, child in node.items()}
    if isinstance(node, list):
        return [_move(child, source, target) for child in node]
    if isinstance(node, str) and Path(node).is_absolute() and (path := Path(node).resolve()).is_relative_to(source):
        return str(target / path.relative_to(source))
    return node
