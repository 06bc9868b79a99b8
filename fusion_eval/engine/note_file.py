"""Notes beside the stored results: which of them a job came to, and the files for which that holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion_eval.errors import DataError
from fusion_eval.report.atomic import atomic_file
from fusion_eval.report.seal import open_sealed, seal
from fusion_eval.stamps import stamp

__all__ = ["Note", "note_path", "read_note", "write_note"]


@dataclass(frozen=True)
class Note:
    """What a job came to, and what that depends on beside its config.

    Attributes:
        files: Every file that the job read, absolute.
        stamp: Of these: see `fusion_eval.stamps.stamp`.
        results: Task name to the key of the merged model's result.
        base: Likewise of the base.
        experts: Likewise of each task's expert.
        findings: Severity and message of all that the audit found.
        merge: What the merge says of itself.
        report: The `lasting_digest` of the report that it left.
        objective: What the job returned.
    """

    files: tuple[str, ...]
    stamp: str
    results: Mapping[str, str]
    base: Mapping[str, str]
    experts: Mapping[str, str]
    findings: tuple[tuple[str, str], ...]
    merge: Mapping[str, Any]
    report: str
    objective: float | None

    @property
    def keys(self) -> set[str]:
        """Of all results."""
        return {*self.results.values(), *self.base.values(), *self.experts.values()}

    def holds(self) -> bool:
        """Whether the files are what they were, as the file system tells."""
        try:
            return stamp(map(Path, self.files)).text == self.stamp
        except OSError:
            return False


def note_path(directory: Path, key: str) -> Path:
    """The file of a key in the directory of a store."""
    return directory / key[:2] / f"{key}.json"


def read_note(path: Path) -> Note:
    """Read what `write_note` wrote.

    Raises:
        DataError: There is no such file, or one byte of it was changed.
    """
    document = open_sealed(path)
    try:
        return Note(**document)
    except TypeError as error:
        raise DataError(f"{path}: not a note of this version: {error}") from error


def write_note(path: Path, note: Note) -> None:
    """Write a note; it is there whole or not at all.

    Raises:
        FusionEvalError: The file cannot be written.
        TypeError: What the merge says of itself is nothing for JSON.
    """
    with atomic_file(path) as file:
        file.write(seal(asdict(note)))
