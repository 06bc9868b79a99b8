"""A task's result as one file: a zip of `result.json` and `samples.parquet`, which any tool can open."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_eval.engine.config_digest import fingerprint_config
from fusion_eval.errors import FusionEvalError
from fusion_eval.report import TaskResult
from fusion_eval.report.atomic import atomic_file
from fusion_eval.report.samples import decode_samples, encode_samples

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DamagedRecordError", "Record", "read_record", "record_path", "write_record"]

_ARRAYS = ("samples", "scores")


class DamagedRecordError(FusionEvalError):
    """A stored result is not what was written."""


@dataclass(frozen=True, eq=False)
class Record:
    """A result and what is known about how it came to be.

    Attributes:
        depends_on: All that decides the result, in values that JSON can hold; its digest is the key.
        label: What was evaluated, in words; it decides nothing.
        result: The result.
    """

    depends_on: dict[str, Any]
    label: str
    result: TaskResult

    @property
    def key(self) -> str:
        """Digest of what the result depends on: 32 hexadecimal digits."""
        return fingerprint_config(self.depends_on)


def record_path(directory: Path, key: str) -> Path:
    """The file of a key in the directory of a store."""
    return directory / key[:2] / f"{key}.zip"


def write_record(path: Path, record: Record) -> None:
    """Write a record; it is there whole or not at all.

    Raises:
        FusionEvalError: the file cannot be written; an old one is unchanged.
        pyarrow.ArrowException: a column has a dtype that Parquet does not know.
    """
    result = record.result
    arrays = {**result.samples, **({} if result.scores is None else {"": result.scores})}  # no column has no name
    plain = {field.name: getattr(result, field.name) for field in fields(result) if field.name not in _ARRAYS}
    document = {
        "label": record.label,
        "depends_on": record.depends_on,
        "result": plain,
        "dtypes": {name: array.dtype.str for name, array in arrays.items()},
    }
    parquet = encode_samples(arrays)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("result.json"), json.dumps(document, indent=1))
        archive.writestr(zipfile.ZipInfo("samples.parquet"), parquet)


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote, bit for bit; the checksums of the archive are verified on the way.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedRecordError: the content is not what was written under this name.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            document = json.loads(archive.read("result.json"))
            columns = decode_samples(archive.read("samples.parquet"))
        arrays = {name: column.astype(document["dtypes"][name], copy=False) for name, column in columns.items()}
        scores: np.ndarray | None = arrays.pop("", None)
        result = TaskResult(**document["result"], samples=arrays, scores=scores)
        record = Record(document["depends_on"], document["label"], result)
    except Exception as error:  # what parsers raise on damaged bytes has no common class
        raise DamagedRecordError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if record.key != path.stem:
        raise DamagedRecordError(f"{path} holds the result of another key, {record.key}")
    return record
