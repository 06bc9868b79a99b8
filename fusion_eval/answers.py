"""What a whole job came to, by its config: the same one again builds no model, merges nothing and loads no torch.

The result store knows results by content, for which there must be a model. Here it is noted which of them a config led
to. That holds for as long as all else is the same: this package, the packages that are installed, and every file that
was read, as the file system tells. Where anything is not, or cannot be told, the job runs as usual.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fusion_eval.config import recorded, to_config
from fusion_eval.engine.config_digest import fingerprint_config
from fusion_eval.engine.note_file import Note, note_path, read_note, write_note
from fusion_eval.errors import DataError, FusionEvalError
from fusion_eval.reuse import file_of, named_files
from fusion_eval.stamps import SETTLED, stamp

if TYPE_CHECKING:
    from fusion_eval.engine import Runner
    from fusion_eval.report import References, TaskResult

__all__ = ["Answer", "Known", "answer_path", "recall", "remember"]

_STARTED = time.time()

_NO_MATTER = (
    "batch_size",
    "data",
    "memory_gb",
    "num_workers",
    "objective",
    "progress",
    "runner",
    "selected_on",
    "store",
)
"""Root keys that no result depends on, or that repeat others."""

_PURE = re.compile(r"fusion_eval\.merging\.\w+|fusion_eval\.models\.Checkpoint")
"""What makes a merge from nothing but its arguments and the files that these name."""

_PLACES = ("checkpoint", "path", "tokenizer")
"""Keys of what is on this machine or on a hub."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

_references: dict[str, TaskResult] = {}
"""Key to result of the base and experts that the job before had."""


@dataclass(frozen=True)
class Answer:
    """What a job came to, beside the figures that follow from it.

    Attributes:
        config: Of the job, as the report records it.
        results: Task name to result.
        references: Base and experts.
        findings: Severity and message of all that the audit found.
        merge: What the merge says of itself.
        report: The `lasting_digest` of the report that it left.
        objective: What it returned.
    """

    config: dict[str, Any]
    results: dict[str, TaskResult]
    references: References
    findings: tuple[tuple[str, str], ...]
    merge: dict[str, Any]
    report: str
    objective: float | None


@dataclass(frozen=True)
class Known:
    """A job that was done before: what its note says, and its results, which are read where they are asked for.

    Attributes:
        config: Of the job, as the report records it.
        note: Of the job.
        store: Where its results are.
    """

    config: dict[str, Any]
    note: Note
    store: Path

    def touch(self) -> bool:
        """Let the note and the results be of use now, for those that prune the store; whether they are all there."""
        from fusion_eval.engine.record_file import record_path

        try:
            os.utime(answer_path(self.store, self.config))
            for key in self.note.keys:
                os.utime(record_path(self.store, key))
        except OSError:
            return False
        return True

    def answer(self) -> Answer | None:
        """Read the results; None if one is missing or damaged."""
        from fusion_eval.engine.record_file import DamagedRecordError, read_record, record_path
        from fusion_eval.report import References

        note = self.note
        references = {*note.base.values(), *note.experts.values()}
        try:
            read = {key: read_record(record_path(self.store, key)).result for key in note.keys - _references.keys()}
        except (OSError, DamagedRecordError):
            return None
        known = {**_references, **read}
        _references.clear()
        _references.update({key: known[key] for key in references})
        results, base, experts = (
            {task: known[key] for task, key in role.items()} for role in (note.results, note.base, note.experts)
        )
        findings = tuple((severity, message) for severity, message in note.findings)
        return Answer(
            self.config, results, References(base, experts), findings, dict(note.merge), note.report, note.objective
        )


def answer_path(store: Path, config: Mapping[str, Any]) -> Path:
    """The file in a result store that says what the config, here and now, leads to.

    Args:
        store: The directory.
        config: As the report records it.
    """
    key = fingerprint_config({key: value for key, value in config.items() if key not in _NO_MATTER}, _surroundings())
    return note_path(store, key)


def recall(cfg: DictConfig) -> Known | None:
    """What is known of a job, if it is noted and nothing has changed since.

    Args:
        cfg: The composed config.
    """
    store = _store(cfg)
    if store is None or _is_one_of_several():
        return None
    try:
        config = recorded(cfg)
        note = read_note(answer_path(store, config))
    except (OSError, TypeError, DataError, OmegaConfBaseException):  # what is wrong the job will tell
        return None
    return Known(config, note, store) if note.holds() else None


def remember(
    answer: Answer, cfg: DictConfig, pool: Any, models: Any, method: Any, runner: Runner, since: float
) -> None:
    """Note what a job came to, if it is known what that depends on: on nothing from a hub.

    No trouble with that costs the run anything.

    Args:
        answer: Of a job in which nothing failed.
        cfg: Its composed config.
        pool: The tasks.
        models: What was merged.
        method: How.
        runner: What ran it.
        since: When the job began, in seconds since 1970: what was changed later may not be what it read.
    """
    from fusion_eval.engine.store import stored_key

    store = _store(cfg)
    if store is None or runner.processes > 1 or runner.loggers or runner.resident == "off":
        return
    found = (answer.results, answer.references.base, answer.references.experts)
    roles = [{task: key for task, result in role.items() if (key := stored_key(result))} for role in found]
    if list(map(len, roles)) != list(map(len, found)):
        return
    with suppress(FusionEvalError, OSError, TypeError):
        files, code = _files(pool, models, method), _code()
        if files is None or stamp(files).changed_at > since - SETTLED or stamp(code).changed_at > _STARTED:
            return
        named = sorted({path.absolute() for path in (*files, *code)})
        results, base, experts = roles
        said = (answer.findings, answer.merge, answer.report, answer.objective)
        note = Note(tuple(map(str, named)), stamp(named).text, results, base, experts, *said)
        write_note(answer_path(store, answer.config), note)


def _store(cfg: DictConfig) -> Path | None:
    try:
        return None if cfg.store.path is None else Path(str(cfg.store.path)).expanduser()
    except (OmegaConfBaseException, RuntimeError):  # the runner says what is wrong
        return None


def _is_one_of_several() -> bool:
    """Whether other processes take part in the run: they must agree on what is known."""
    return any(os.environ.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_NTASKS"))


@functools.cache
def _surroundings() -> list[Any]:
    """What results depend on beside config and files: this package as the process found it, and all that is installed.

    Also what decides which files are meant by a name.
    """
    package = [path for path in Path(__file__).parent.rglob("*.*") if path.suffix != ".pyc"]
    installed = {
        entry.name
        for place in sys.path
        if os.path.isdir(place)  # noqa: PTH112
        for entry in os.scandir(place)
        if entry.name.endswith((".dist-info", ".egg-info"))
    }
    places = [os.getcwd(), os.path.expanduser("~"), *sys.path]  # noqa: PTH109, PTH111
    return [stamp(package).text, sorted(installed), sys.version, places]


def _files(pool: Any, models: Any, method: Any) -> list[Path] | None:
    """Every file that the job read, but for code; None where that is not known."""
    from fusion_eval.data import Embedded
    from fusion_eval.engine.prepare import load_samples
    from fusion_eval.models import ModelPool
    from fusion_eval.taskpool import TaskPool
    from fusion_eval.tasks import Calibration

    calibration = getattr(method, "calibration", None)
    if (
        type(pool) is not TaskPool
        or type(models) is not ModelPool
        or type(calibration) not in (type(None), Calibration)
    ):
        return None
    merge = to_config(method)
    described = [merge, *(to_config(value) for value in (pool, models))]
    if any(_may_be_elsewhere(key, text) for key, text in _strings(described)):
        return None
    if not all(_PURE.fullmatch(target) for target in _targets({**merge, "calibration": None})):
        return None
    tasks = list(pool.tasks.values())
    if calibration is not None:
        if merge["calibration"]["models"] != described[-1]:
            return None
        tasks += [replace(tasks[0], data=data) for data in calibration.sources()]
    files = named_files(models, described)
    for task in tasks:
        if type(task.data) is not Embedded:  # which is made of installed packages
            kept = load_samples(task, share=True)
            if kept.stamp is None:
                return None
            files.extend(kept.paths)
    return files


def _targets(config: Any) -> Iterator[str]:
    """Every `_target_` in plain mappings and lists."""
    yield from (text for key, text in _strings(config) if key == "_target_")


def _may_be_elsewhere(key: str, text: str) -> bool:
    """Whether a string of a config may mean something that is not, or not only, on this machine."""
    return (key in _PLACES or _HUB_ID.fullmatch(text) is not None) and not file_of(text).exists()


def _strings(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in plain mappings and lists, behind the key that it, or the list that it is in, stands at."""
    if isinstance(config, str):
        yield key, config
    elif isinstance(config, dict):
        yield from (found for name, value in config.items() for found in _strings(value, name))
    elif isinstance(config, list):
        yield from (found for value in config for found in _strings(value, key))


def _code() -> list[Path]:
    """The source files that this process runs, but for this package's and those of installed ones."""
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    found = {spec.origin for spec in specs if spec is not None and spec.has_location and not _is_versioned(spec.origin)}
    return list(map(Path, found))


@functools.cache
def _is_versioned(file: str) -> bool:
    """Whether a source file belongs to this package or to an installed one."""
    from fusion_eval.engine.code import is_installed

    return Path(file).is_relative_to(Path(__file__).parent) or is_installed(Path(file))
