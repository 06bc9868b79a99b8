"""Tables in CSV, TSV and Parquet files, one row a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.arrays import as_inputs, as_targets
from fusion_eval.data.source import DataSource, TensorSamples
from fusion_eval.data.targets import NUMERIC_TARGETS, as_numbers
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["Table"]

_SUFFIXES = (".csv", ".tsv", ".parquet")
_COUNTED = " (the first row after the header is row 0)"


@dataclass(frozen=True)
class Table(DataSource):
    r"""Numeric columns as inputs, one column as target.

    A target column of strings (or booleans, or categories) is numbered in the sorted order of all its values in the
    file, whatever the split, so that all splits agree; a column of integers is taken as class indices.

    Args:
        path: A `.csv` (commas), `.tsv` (tabs) or `.parquet` file with named columns.
        target: The target column; a list of them for `vector` and `labels`.
        features: The input columns in this order; None means all numeric ones but target, split, group and the
            index of pandas.
        split_column: The column that says which split a row belongs to; None takes all rows.
        split: The rows of `split_column` that are taken, as text.
        class_names: The classes in the order of their index, where the sorted order is not the one the model knows.
        group: The column, of integers or strings, that says which samples belong together (see `Samples.groups`).
        target_type: `class`; or, in float32, `number`: one column; `vector`: `k` columns; `labels`: `c` columns of 0
            and 1, which name the classes.

    Raises:
        ConfigError: the suffix or `target_type` is unknown, only one of `split_column` and `split` is given, or there
            are several target columns for one class or number.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "iris.csv").write_text("width,length,species\n1,2.5,virginica\n3,4,setosa\n")
        ...     samples = Table(f"{folder}/iris.csv", target="species").load()
        >>> samples[0], samples.class_names
        ((tensor([1.0000, 2.5000]), tensor(1)), ('setosa', 'virginica'))
    """

    path: str
    target: str | list[str]
    features: list[str] | None = None
    split_column: str | None = None
    split: str | None = None
    class_names: list[str] | None = None
    group: str | None = None
    target_type: str = "class"

    def __post_init__(self) -> None:
        if Path(self.path).suffix not in _SUFFIXES:
            raise ConfigError(f"Table: path={self.path!r}; it should end in {', '.join(_SUFFIXES)}")
        if (self.split_column is None) != (self.split is None):
            raise ConfigError(f"Table: split_column={self.split_column!r} and split={self.split!r}; give both or none")
        if self.target_type not in (known := ("class", *NUMERIC_TARGETS)):
            raise ConfigError(f"Table: target_type={self.target_type!r}{suggest(self.target_type, known)}")
        if isinstance(self.target, list) and self.target_type not in ("vector", "labels"):
            raise ConfigError(f"Table: target={self.target}; several columns go with target_type vector or labels")
        for name in self._target_names:
            if name in (self.features or ()):
                raise ConfigError(f"Table: the target {name!r} is among the features")

    def load(self) -> TensorSamples:
        """Read the file.

        Returns:
            Inputs `(n, f)` in float32, targets `(n,)` in int64, or in float32 with the shape of their type.

        Raises:
            DataError: the file or a column is missing or malformed, or a value of the chosen rows is missing.
        """
        table = _read(Path(self.path))
        rows = self._rows(table)
        targets, class_names = self._targets(table, rows)
        inputs = as_inputs(self._inputs(table, rows), self.path)
        return TensorSamples(inputs, targets, class_names, None if self.group is None else self._groups(table, rows))

    @property
    def _target_names(self) -> list[str]:
        return self.target if isinstance(self.target, list) else [self.target]

    def _rows(self, table: Any) -> np.ndarray:
        """Numbers of the rows of the split."""
        if self.split_column is None:
            return np.arange(table.num_rows)
        values = np.array(self._column(table, self.split_column).cast("string").to_pylist(), dtype=object)
        rows = np.flatnonzero(values == self.split)
        if len(rows) == 0:
            known = {value for value in values if value is not None}
            raise DataError(
                f"{self.path}: no split {self.split!r} in {self.split_column}{suggest(str(self.split), known)}"
            )
        return rows

    def _inputs(self, table: Any, rows: np.ndarray) -> np.ndarray:
        others = {
            *self._target_names,
            self.split_column,
            self.group,
            "",
        }  # pandas writes its index under the empty name
        names = self.features or [
            field.name
            for field in table.schema
            if field.name not in others and not field.name.startswith("__index_level_") and _is_numeric(field.type)
        ]
        if not names:
            targets = ", ".join(map(repr, self._target_names))
            raise DataError(f"{self.path}: no numeric column beside {targets}; found {table.schema.names}")
        return np.stack([self._numbers(table, name, rows) for name in names], axis=1)

    def _numbers(self, table: Any, name: str, rows: np.ndarray) -> np.ndarray:
        column = self._column(table, name)
        if not _is_numeric(column.type):
            raise DataError(f"{self.path}: column {name!r} holds {column.type}; it should hold numbers")
        values = np.asarray(column.cast("float64", safe=False).to_numpy()[rows])
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise DataError(
                f"{self.path}: column {name!r}, row {_first(wrong, rows)} is missing or not finite{_COUNTED}"
            )
        return values

    def _targets(self, table: Any, rows: np.ndarray) -> tuple[Tensor, tuple[str, ...] | None]:
        if isinstance(self.target, str) and self.target_type == "class":
            return self._classes(table, self.target, rows)
        names = self._target_names
        values = np.stack([self._numbers(table, name, rows) for name in names], axis=1)
        where = f"{self.path}: {', '.join(names)}"
        targets = as_numbers(values[:, 0] if self.target_type == "number" else values, self.target_type, where)
        return targets, tuple(names) if self.target_type == "labels" else None

    def _classes(self, table: Any, name: str, rows: np.ndarray) -> tuple[Tensor, tuple[str, ...] | None]:
        from pyarrow import types

        column = self._column(table, name)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        missing = column.is_null().to_numpy()[rows]
        if missing.any():
            raise DataError(f"{self.path}: column {name!r}, row {_first(missing, rows)} is missing{_COUNTED}")
        class_names = None if self.class_names is None else tuple(self.class_names)
        if types.is_integer(column.type):
            where = f"{self.path}: column {name!r}" + (f" of split {self.split!r}" if self.split else "")
            return as_targets(column.take(rows).to_numpy(), class_names, where), class_names
        if not (types.is_boolean(column.type) or types.is_string(column.type) or types.is_large_string(column.type)):
            raise DataError(
                f"{self.path}: target column {name!r} holds {column.type}; it should hold integers or strings"
            )
        labels = column.cast("string").to_pylist()
        class_names = class_names or tuple(sorted(set(labels) - {None}))
        indices = {label: index for index, label in enumerate(class_names)}
        for row in rows:
            if labels[row] not in indices:
                tail = suggest(labels[row], class_names)
                raise DataError(f"{self.path}: column {name!r}, row {row}: no class {labels[row]!r}{tail}")
        return torch.tensor([indices[labels[row]] for row in rows]), class_names

    def _groups(self, table: Any, rows: np.ndarray) -> np.ndarray:
        values = self._column(table, str(self.group)).to_pylist()
        for row in rows:
            if not isinstance(values[row], (int, str)):
                raise DataError(
                    f"{self.path}: group column {self.group!r}, row {row}: {values[row]!r} is no name or whole number"
                )
        return np.array([values[row] for row in rows])

    def _column(self, table: Any, name: str) -> Any:
        if name not in table.column_names:
            raise DataError(f"{self.path}: no column {name!r}{suggest(name, table.column_names)}")
        return table.column(name)


def _read(path: Path) -> Any:
    """A `pyarrow.Table` whose columns have different names."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        names = table.column_names
    except Exception as error:  # mostly ArrowException; bytes that are no UTF-8 raise others
        raise DataError(f"{path}: not a readable {path.suffix} file: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: no rows")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: more than one column is named {repeated[0]!r}")
    return table


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


def _read_csv(path: Path) -> Any:
    from pyarrow import csv

    delimiter = "\t" if path.suffix == ".tsv" else ","
    missing = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=missing)


def _is_numeric(kind: Any) -> bool:
    from pyarrow import types

    # A column without any value has no type: it is taken as numbers, all of them missing, rather than passed over.
    checks = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return any(check(kind) for check in checks)


def _first(chosen: np.ndarray, rows: np.ndarray) -> int:
    return int(rows[chosen.argmax()])
