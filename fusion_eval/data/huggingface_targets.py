"""Target columns of a Hugging Face data set, as what a task needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.arrays import as_targets
from fusion_eval.data.huggingface_rows import ArrayColumn
from fusion_eval.data.targets import as_numbers
from fusion_eval.errors import DataError

__all__ = ["TARGET_TYPES", "Targets", "read_targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """One target a row, and the classes in the order of their index where the column knows them."""

    values: Sequence[Any] | Tensor | ArrayColumn
    class_names: tuple[str, ...] | None = None


def read_targets(dataset: Any, names: Sequence[str], target_type: str, where: str) -> Targets:
    """The targets of all rows.

    Args:
        dataset: A `datasets.Dataset` with no format.
        names: The target columns; several only for `vector` and `labels`.
        target_type: One of `TARGET_TYPES`.
        where: Data set and split, for messages.

    Raises:
        DataError: a column holds something else, or a row has no target.
    """
    if target_type == "vector" and len(names) > 1:
        return Targets(torch.stack([_numbers(dataset, name, where) for name in names], dim=1))
    if target_type == "labels" and len(names) > 1:
        return Targets(torch.stack([_indicators(dataset, name, where) for name in names], dim=1), tuple(names))
    return TARGET_TYPES[target_type](dataset, names[0], where)


def _classes(dataset: Any, name: str, where: str) -> Targets:
    from pyarrow import types

    column = _column(dataset, name)
    where = _place(name, where)
    class_names = _class_names(dataset.features[name])
    if not (types.is_integer(column.type) or types.is_boolean(column.type)):
        fix = f"make them indices with dataset.class_encode_column({name!r}) and save_to_disk, or set target_type"
        raise DataError(f"{where} holds {column.type}, not class indices; {fix}")
    values = column.cast("int64").fill_null(-1).to_numpy()
    if (values == -1).any():
        row = int((values == -1).argmax())
        raise DataError(f"{where}: row {row} has no label; published test splits may have none")
    return Targets(as_targets(values, class_names, where).tolist(), class_names)


def _number(dataset: Any, name: str, where: str) -> Targets:
    return Targets(_numbers(dataset, name, where))


def _numbers(dataset: Any, name: str, where: str) -> Tensor:
    """Shape `(n,)`, float32, finite."""
    column = _column(dataset, name)
    if not _is_number(column.type):
        raise DataError(f"{_place(name, where)} holds {column.type}, not numbers")
    values = column.cast("float64", safe=False).to_numpy()  # a missing value becomes NaN
    return as_numbers(values, "number", _place(name, where))


def _vectors(dataset: Any, name: str, where: str) -> Targets:
    """Shape `(n, k)`, float32, finite, from lists of one length."""
    lists, where = _lists(dataset, name, where)
    if not _is_number(lists.type.value_type):
        raise DataError(f"{where} holds {lists.type}, not lists of numbers")
    lengths = _lengths(lists)
    wrong = lengths != lengths[:1]
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{where}: row {row} has {lengths[row]} numbers, row 0 has {lengths[0]}; it should be the same")
    flat = lists.flatten().cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return Targets(as_numbers(flat.reshape(len(lists), lengths.max(initial=0)), "vector", where))


def _label_lists(dataset: Any, name: str, where: str) -> Targets:
    """Lists of class indices as indicators: shape `(n, c)`, float32, 1 where the class is in the list."""
    from pyarrow import types

    lists, where = _lists(dataset, name, where)
    feature = dataset.features[name]
    class_names = _class_names(getattr(feature, "feature", feature))
    if class_names is None or not types.is_integer(lists.type.value_type):
        raise DataError(
            f"{where} holds {lists.type} without names of classes, so their number is not known; "
            f"dataset.cast_column({name!r}, datasets.List(datasets.ClassLabel(names=[...]))) and save_to_disk"
        )
    rows = np.repeat(np.arange(len(lists)), _lengths(lists))
    classes = lists.flatten().fill_null(-1).to_numpy(zero_copy_only=False)
    wrong = (classes < 0) | (classes >= len(class_names))
    if wrong.any():
        row, found = int(rows[wrong.argmax()]), int(classes[wrong.argmax()])
        raise DataError(f"{where}: class {found} in row {row}; it should be in [0, {len(class_names)})")
    indicators = torch.zeros(len(lists), len(class_names))
    indicators[torch.from_numpy(rows), torch.tensor(classes)] = 1
    return Targets(indicators, class_names)


def _indicators(dataset: Any, name: str, where: str) -> Tensor:
    """A column of 0 and 1: shape `(n,)`, float32."""
    return as_numbers(_numbers(dataset, name, where)[:, None], "labels", _place(name, where))[:, 0]


def _text(dataset: Any, name: str, where: str) -> Targets:
    from pyarrow import types

    column = _column(dataset, name)
    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        raise DataError(f"{_place(name, where)} holds {column.type}, not text")
    values = column.to_pylist()
    if None in values:
        raise DataError(f"{_place(name, where)}: row {values.index(None)} has no text")
    return Targets(values)


def _arrays(dataset: Any, name: str, where: str) -> Targets:
    return Targets(ArrayColumn(dataset, name, where))


TARGET_TYPES = {
    "class": _classes,
    "number": _number,
    "vector": _vectors,
    "labels": _label_lists,
    "text": _text,
    "array": _arrays,
}
"""What a target may be, and what reads it."""


def _column(dataset: Any, name: str) -> Any:
    """The stored values, a `pyarrow.ChunkedArray`."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(0)


def _lists(dataset: Any, name: str, where: str) -> tuple[Any, str]:
    """A column of lists as one `pyarrow` array without missing rows, and where it is."""
    from pyarrow import types

    column, where = _column(dataset, name).combine_chunks(), _place(name, where)
    if not (types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)):
        raise DataError(f"{where} holds {column.type}, not lists")
    if column.null_count:
        raise DataError(f"{where}: row {column.is_null().index(True).as_py()} has no target")
    return column, where


def _lengths(lists: Any) -> np.ndarray:
    from pyarrow import compute

    return np.asarray(compute.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    import datasets

    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    checks = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    return any(check(kind) for check in checks)


def _place(name: str, where: str) -> str:
    return f"{where}: column {name!r}"
