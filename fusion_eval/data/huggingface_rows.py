"""Rows of a Hugging Face data set: decoded when they are asked for, and their content as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fusion_eval.data.arrays import as_tensor
from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import Samples
from fusion_eval.errors import DataError

__all__ = ["ArrayColumn", "Column", "Rows"]


class Column:
    """One column, memory-mapped.

    Args:
        dataset: A `datasets.Dataset` with no format.
        name: The column.
        where: The data set, for messages.
    """

    def __init__(self, dataset: Any, name: str, where: str) -> None:
        self._values = dataset.select_columns([name])
        self._name = name
        self._where = where

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        try:
            value = self._values[index][self._name]
        except Exception as error:  # PIL's decoders raise whatever a broken image leads them to
            reason = str(error).partition(" <_io")[0]  # what follows is an address in memory
            raise DataError(f"{self._where}: row {index} cannot be decoded: {reason}") from error
        if value is None:
            raise DataError(f"{self._where}: row {index} has no value in column {self._name!r}")
        return value

    def files(self) -> set[Path]:
        """The Arrow files that hold the column, and the images that lie beside them."""
        import datasets

        files = {Path(file["filename"]) for file in self._values.cache_files}
        if not files or not isinstance(self._values.features[self._name], datasets.Image):
            return files
        outside = [
            chunk.filter(chunk.field("bytes").is_null()).field("path").drop_null().to_pylist()
            for chunk in self._values.data.column(self._name).chunks  # mapped, not read
        ]
        return files | {Path(path) for paths in outside for path in paths}

    def encoded(self) -> Iterator[Any]:
        """The values as they are stored: the bytes of an image file, numbers and text."""
        import datasets

        feature = self._values.features[self._name]
        if isinstance(feature, datasets.Image):
            for row in self._values.cast_column(self._name, datasets.Image(decode=False)):
                image = row[self._name]
                yield image if image is None else image["bytes"] or Path(image["path"]).read_bytes()
            return
        for row in self._values.with_format("numpy") if _holds_numbers(feature) else self._values:
            yield row[self._name]


class ArrayColumn(Column):
    """One column of images or nested numbers, each row a tensor: integers become int64, floats float32, uint8 stays."""

    def __init__(self, dataset: Any, name: str, where: str) -> None:
        super().__init__(dataset, name, where)
        if _holds_numbers(dataset.features[name]):
            self._values = self._values.with_format("numpy")

    def __getitem__(self, index: int) -> Tensor:
        where = f"{self._where}: row {index} of column {self._name!r}"
        value = super().__getitem__(index)
        try:
            return as_tensor(np.asarray(value), where)
        except ValueError as error:  # lists of different lengths
            raise DataError(f"{where} is no array: {error}") from error


class Rows(Samples):
    """Inputs, targets and groups, one a row.

    Args:
        inputs: The input column, or column name to column: items then have a dict as input.
        targets: One a row.
        class_names: The classes in the order of their target.
        groups: Shape `(n,)`, or None.
    """

    def __init__(
        self,
        inputs: Column | dict[str, Column],
        targets: Sequence[Any] | Tensor | Column,
        class_names: tuple[str, ...] | None,
        groups: np.ndarray | None,
    ) -> None:
        self._inputs = inputs
        self._targets = targets
        self.class_names = class_names
        self.groups = groups

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if isinstance(self._inputs, Column):
            return self._inputs[index], self._targets[index]
        return {name: column[index] for name, column in self._inputs.items()}, self._targets[index]

    def fingerprint(self) -> str:
        """Digest of inputs, targets and groups as they are stored."""
        targets = self._targets.encoded() if isinstance(self._targets, Column) else self._targets
        grouping = [] if self.groups is None else [self.groups.tolist()]
        return digest_content(chain(zip(self._encoded_inputs(), targets, strict=True), grouping))

    def files(self) -> Sequence[Path]:
        """Of all columns; empty if one is in memory."""
        columns = [self._inputs] if isinstance(self._inputs, Column) else list(self._inputs.values())
        if isinstance(self._targets, Column):
            columns.append(self._targets)
        found = [column.files() for column in columns]
        return sorted(set().union(*found)) if all(found) else ()

    def _encoded_inputs(self) -> Iterator[Any]:
        if isinstance(self._inputs, Column):
            return self._inputs.encoded()
        names, columns = list(self._inputs), [column.encoded() for column in self._inputs.values()]
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _holds_numbers(feature: Any) -> bool:
    """Whether NumPy can hold a row: a number, a list of numbers, or an array of fixed shape."""
    dtype = str(getattr(getattr(feature, "feature", feature), "dtype", ""))
    return dtype.startswith(("int", "uint", "float", "bool"))
