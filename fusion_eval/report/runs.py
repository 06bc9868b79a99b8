"""Runs on disk, read back: what `ReportWriter` left in a directory, whole or half."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_eval.errors import ConfigError, DataError
from fusion_eval.report.samples import read_samples, samples_path
from fusion_eval.report.seal import open_sealed
from fusion_eval.report.writer import SCHEMA_VERSION

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["SELECTED", "Run", "find_runs", "label_runs", "read_run"]

SELECTED = "selected"
"""Directory in that of a sweep where the chosen configuration is evaluated, on another split than the sweep."""

_UNTOLD = ("runner", "selected_on", "select_on", "split", "progress", "objective")
"""Root keys that are no part of a label: copies of others, a column of its own, or nothing a result depends on."""


_UNTOLD_BELOW = r"taskpool\.tasks\.[^.]+\.data\.split|calibration\.evaluated|trainer\.logger\..+"
"""Nor are these: the split that is measured, twice, and where it logs to."""


@dataclass(frozen=True)
class Run:
    """One evaluation: its report.json, and its per-sample files where they are asked for.

    Args:
        directory: Of the run.
        document: The content of its report.json.
    """

    directory: Path
    document: dict[str, Any]

    @property
    def status(self) -> str:
        """One of "complete", "partial", "failed", "dropped", and "running", which is also what a killed run leaves."""
        return str(self.document["status"])

    @property
    def selected_on(self) -> str:
        """The split that hyper-parameters were chosen on, or "not recorded"."""
        return self.document.get("selected_on") or "not recorded"

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with a result."""
        return list(self.document["report"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config = self.document["provenance"].get("config")
        return config if isinstance(config, dict) else {}

    @property
    def failures(self) -> list[str]:
        """What failed and why, a line each."""
        failures = self.document["failures"]
        return [f"{task}: {failure.get('error')}: {failure.get('message')}" for task, failure in failures.items()]

    @property
    def task_nodes(self) -> dict[str, Any]:
        """What the configuration says of each task; empty for pools that are not configured task by task."""
        tasks = (self.config.get("taskpool") or {}).get("tasks")
        return tasks if isinstance(tasks, dict) else {}

    @property
    def splits(self) -> list[str]:
        """The splits it was measured on, as far as the configuration names them."""
        if self.config.get("split"):
            return [str(self.config["split"])]
        data = (task.get("data") or {} for task in self.task_nodes.values() if isinstance(task, dict))
        return sorted({str(source["split"]) for source in data if isinstance(source, dict) and source.get("split")})

    def primary(self, task: str) -> str:
        """The metric that stands for a task."""
        return str(self.document["primary"][task])

    def value(self, key: str) -> tuple[float | None, float | None]:
        """A number and its standard error.

        Args:
            key: As `objective` takes it: `mean.<metric>`, `normalised.<name>`, `worst.<name>` or `<task>.<metric>`.

        Returns:
            None for what the run does not have.
        """
        for task, metrics in self.document["report"].items():
            name = key.removeprefix(f"{task}.")
            if name != key and name in metrics:
                return metrics[name], self.document["standard_errors"].get(task, {}).get(name)
        group, _, name = key.partition(".")
        entry = self.document["aggregates"].get(group, {}).get(name) or {}
        return entry.get("value"), entry.get("standard_error")

    def names(self) -> list[str]:
        """Every key that `value` knows."""
        groups = {**self.document["aggregates"], **self.document["report"]}
        return [f"{group}.{name}" for group, named in groups.items() for name in named]

    def data(self, task: str) -> tuple[Any, ...]:
        """What two runs must share so that their results on a task can be compared."""
        fingerprint = (self.document["fingerprints"].get(task) or {}).get("data")
        return self.document["counts"].get(task), fingerprint, self.primary(task)

    def samples(self, task: str, role: str = "") -> dict[str, np.ndarray]:
        """The per-sample columns of a task; empty where the run left none.

        Args:
            task: Its name.
            role: "base" or "experts" for those of a reference.

        Raises:
            DataError: The file of the task is missing or broken.
        """
        path = samples_path(self.directory, task, role).relative_to(self.directory).as_posix()
        return read_samples(self.directory, task, role) if path in self.document["samples"] else {}

    def scores(self, task: str, role: str = "") -> npt.NDArray[np.float64] | None:
        """Per-sample scores whose mean is the primary metric, shape `(n,)`; None where the run left none."""
        scores = self.samples(task, role).get("score")
        return None if scores is None else scores.astype("float64")


def read_run(path: Path) -> Run:
    """Read a report.json, or the one in a directory.

    Raises:
        DataError: There is none, it was changed, or another version of this package wrote it.
    """
    path = path / "report.json" if path.is_dir() else path
    document = open_sealed(path)
    if document["schema_version"] != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version {document['schema_version']!r}; this version reads {SCHEMA_VERSION}")
    return Run(path.parent, document)


def find_runs(directories: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read every report.json below some directories, but for those of what a sweep selected: they are no part of it.

    Returns:
        The runs, in the order of their paths (job 2 before job 10), and why other files were not read.

    Raises:
        ConfigError: A directory does not exist.
    """
    runs, unread = [], []
    paths: dict[Path, None] = {}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory}: no such directory")
        root = directory.resolve()
        found = [path for path in root.rglob("report.json") if SELECTED not in path.relative_to(root).parts]
        paths.update(dict.fromkeys(sorted(found, key=_natural)))
    for path in paths:
        try:
            runs.append(read_run(path))
        except DataError as error:
            unread.append(str(error))
    return runs, unread


def label_runs(runs: Iterable[Run]) -> list[str]:
    """Name each run by what sets it apart: its merging method, and the settings in which it differs from the others.

    Settings of a method are compared among the runs of that method. Runs with equal settings are told apart by their
    directories.

    Example:
        >>> from pathlib import Path
        >>> models = [{"_target_": "Ties", "density": 0.2}, {"_target_": "Ties", "density": 0.5}, {"_target_": "Base"}]
        >>> label_runs(Run(Path(), {"provenance": {"config": {"model": model, "seed": 0}}}) for model in models)
        ['Ties density=0.2', 'Ties density=0.5', 'Base']
    """
    runs = list(runs)
    settings = [dict(_flat(run.config)) for run in runs]
    methods = [str(own.get("model._target_", "")) for own in settings]
    experts = {key for own in settings for key in own if re.fullmatch(_EXPERT, key)}
    kin = {name: [own for method, own in zip(methods, settings, strict=True) if method == name] for name in methods}
    differing = {name: _differing(peers) for name, peers in kin.items()}
    anywhere = _differing(settings)
    labels = []
    for run, method, own in zip(runs, methods, settings, strict=True):
        parts = [method.rpartition(".")[2]] if method else []
        for key, value in own.items():
            told = differing[method] if key.startswith("model.") else anywhere
            if key != "model._target_" and key in told and (key not in experts or told[key] > 1):
                name = key.removeprefix("model.").removesuffix("._target_")
                text = str(value).rpartition(".")[2] if key.endswith("._target_") else value
                parts.append(f"{name}={text}")
        parts += [f"~{key.removeprefix('modelpool.')}" for key in sorted(experts - own.keys())]
        labels.append(" ".join(parts) or run.directory.name)
    return [
        f"{label} [{run.directory.parent.name}/{run.directory.name}]" if labels.count(label) > 1 else label
        for run, label in zip(runs, labels, strict=True)
    ]


_EXPERT = r"modelpool\.experts\.[^.]+"
"""Of an expert, which those without it say they are without."""


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Keys of which not all have the same value, or not all have one, to how many values there are."""
    values: dict[str, set[Any]] = {}
    having: Counter[str] = Counter()
    for own in settings:
        having.update(own.keys())
        for key, value in own.items():
            values.setdefault(key, set()).add(value)
    return {key: len(found) for key, found in values.items() if len(found) > 1 or having[key] < len(settings)}


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key to plain value; what labels leave out is skipped."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            if path or key not in _UNTOLD:
                yield from _flat(child, f"{path}.{key}".lstrip("."))
    elif not re.fullmatch(_UNTOLD_BELOW, path):
        yield path, json.dumps(node) if isinstance(node, list) else node


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
