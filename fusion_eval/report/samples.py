"""Per-sample results: one Parquet file a task."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from fusion_eval.errors import DataError
from fusion_eval.report.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

__all__ = ["encode_samples", "read_samples", "remove_samples", "samples_path", "write_samples"]


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
    import pyarrow.parquet

    parquet = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(dict(samples)), parquet, compression="zstd")
    return bytes(parquet.getvalue())


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

    Raises:
        DataError: The file is missing or no Parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    path = samples_path(directory, task, role)
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read the samples of {task} from {path}: {error}") from error
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
