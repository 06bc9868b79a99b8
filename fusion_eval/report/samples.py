"""Per-sample results: one Parquet file a task."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fusion_eval.errors import DataError
from fusion_eval.report.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

__all__ = ["decode_samples", "encode_samples", "read_samples", "remove_samples", "samples_path", "write_samples"]


def samples_path(directory: Path, task: str, role: str = "") -> Path:
    """The file of a task; `urllib.parse.unquote(path.stem)` gives its name back.

    Args:
        directory: Of the run.
        task: Its name, of any characters.
        role: "base" or "experts" for what a reference left; empty: the model under test.

    Example:
        >>> from pathlib import Path
        >>> samples_path(Path("run"), "glue/sst2").as_posix()
        'run/samples/glue%2Fsst2.parquet'
    """
    return directory / "samples" / role / f"{quote(task, safe='')}.parquet"


def encode_samples(samples: Mapping[str, np.ndarray]) -> bytes:
    """Samples as a Parquet file, compressed with zstd; equal samples give equal bytes.

    Args:
        samples: Column name to array of shape `(n,)`.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    parquet = pyarrow.BufferOutputStream()
    table = pyarrow.table([_column(array) for array in samples.values()], names=list(samples))
    write_table(table, parquet, compression="zstd")
    return bytes(parquet.getvalue())


def decode_samples(parquet: bytes) -> dict[str, np.ndarray]:
    """Read what `encode_samples` made, in its order and with its dtypes (strings as objects).

    Raises:
        pyarrow.ArrowException: It is no Parquet file.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile  # read_table would import pandas

    with ParquetFile(pyarrow.BufferReader(parquet)) as file:
        table = file.read()
    return {name: _array(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def write_samples(directory: Path, task: str, parquet: bytes, role: str = "") -> Path:
    """Write the samples of a task.

    Args:
        directory: Of the run.
        task: Its name, of any characters.
        parquet: Of `encode_samples`.
        role: As for `samples_path`.

    Returns:
        The file.

    Raises:
        FusionEvalError: The file cannot be written.
    """
    path = samples_path(directory, task, role)
    with atomic_file(path) as file:
        file.write(parquet)
    return path


def remove_samples(directory: Path) -> None:
    """Remove the files of all tasks that an earlier run left in a directory."""
    for path in (directory / "samples").rglob("*.parquet"):
        path.unlink()


def read_samples(directory: Path, task: str, role: str = "") -> dict[str, np.ndarray]:
    """Read what `encode_samples` made, in its order and with its dtypes (strings as objects).

    Returns:
        Column name to array, which must not be changed: the runs of a sweep share what is equal.

    Raises:
        DataError: The file is missing or no Parquet file.
    """
    import pyarrow

    path = samples_path(directory, task, role)
    try:
        return dict(_decoded(path.read_bytes()))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read the samples of {task} from {path}: {error}") from error


@lru_cache(maxsize=32)  # base and experts are the same in every job
def _decoded(parquet: bytes) -> dict[str, np.ndarray]:
    return decode_samples(parquet)


def _array(column: Any) -> Any:
    """As `column.to_numpy` makes it, which for numbers and truth values would import pandas first, to no end."""
    import numpy as np
    import pyarrow

    types, kind, values = pyarrow.types, column.type, column.combine_chunks()
    if values.null_count == 0 and (types.is_integer(kind) or types.is_floating(kind)):
        return np.from_dlpack(values)
    if values.null_count or not types.is_boolean(kind):
        return column.to_numpy()
    bits = np.unpackbits(np.frombuffer(values.buffers()[1], np.uint8), bitorder="little")
    return bits[values.offset : values.offset + len(values)].view(bool)


def _column(array: np.ndarray) -> Any:
    """As `pyarrow.array` makes it, which for numbers would import pandas first, to see that they are no Series."""
    import numpy as np
    import pyarrow

    if array.dtype.kind not in "iufb" or not array.dtype.isnative:
        return pyarrow.array(array)
    values = np.packbits(array, bitorder="little") if array.dtype == bool else np.ascontiguousarray(array)
    return pyarrow.Array.from_buffers(
        pyarrow.from_numpy_dtype(array.dtype), len(array), [None, pyarrow.py_buffer(values)]
    )
