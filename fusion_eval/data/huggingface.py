"""Hugging Face `datasets`: from the hub, from `save_to_disk`, from a directory of data files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_eval.data.arrays import AsInput, as_targets
from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.data.transform import ImageTransform, TransformedSamples
from fusion_eval.errors import DataError, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["HuggingFace"]

_DOWNLOAD = (
    ". Where there is a network, run datasets.load_dataset({arguments}, split={split!r}).save_to_disk('DIR'), "
    "bring DIR here and set path to it"
)


@dataclass(frozen=True)
class HuggingFace(DataSource):
    """One split of a Hugging Face data set, memory-mapped; rows are decoded when they are asked for.

    The fingerprint is one of the content: encoded images, inputs, targets, in order. It reads the whole split, because
    the one of the `datasets` library differs between machines.

    Args:
        path: A directory written by `save_to_disk`, a directory of data files, or an id on the hub.
        name: The configuration, where the data set has several.
        split: `test`, or for data files and the hub any expression of the library such as `test[:100]`.
        revision: Commit, tag or branch on the hub; pin it for numbers that can be reproduced.
        input: The input column; None takes the only image column.
        target: The column of class indices; None takes the only `ClassLabel` column.
        transform: From the value of the input column (a PIL image, a list, a string) to what the model takes; None
            means `ImageTransform()` for images, and numbers as tensors (floats as float32) otherwise.

    Example:
        >>> HuggingFace("tanganke/sun397", revision="main").split
        'test'
    """

    path: str
    name: str | None = None
    split: str = "test"
    revision: str | None = None
    input: str | None = None
    target: str | None = None
    transform: Callable[..., Any] | None = None

    def load(self) -> Samples:
        """Open the split, after a download if the path is an id on the hub.

        Returns:
            Items `(transform(input), target)` with an integer target.

        Raises:
            DataError: `datasets` is not installed, the data cannot be had, a column is ambiguous, a row has no label.
        """
        try:
            import datasets
        except ImportError as error:
            raise DataError('Hugging Face data sets need an extra: pip install "fusion-eval[hf]"') from error
        dataset = self._open()
        is_image = {name: isinstance(feature, datasets.Image) for name, feature in dataset.features.items()}
        is_class = {name: isinstance(feature, datasets.ClassLabel) for name, feature in dataset.features.items()}
        input_column = self._column("input", self.input, is_image, dataset.features)
        target_column = self._column("target", self.target, is_class, dataset.features)
        class_names = tuple(dataset.features[target_column].names) if is_class[target_column] else None
        targets = self._targets(dataset, target_column, class_names)
        rows = _Rows(dataset.select_columns([input_column]), targets, class_names, self.path)
        return TransformedSamples(rows, self.transform or (ImageTransform() if is_image[input_column] else AsInput()))

    def _open(self) -> Any:
        import datasets

        path = Path(self.path)
        try:
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                dataset = self._choose_split(datasets.load_from_disk(self.path))
            else:
                dataset = datasets.load_dataset(self.path, self.name, split=self.split, revision=self.revision)
        except ValueError as error:  # a wrong name or split; the library lists the right ones
            raise DataError(f"{self.path}: {error}") from error
        except DataError:
            raise
        except Exception as error:  # network, cache and file formats, each with errors of its own
            how = (
                ""
                if path.exists() or path.is_absolute()
                else _DOWNLOAD.format(arguments=self._arguments(), split=self.split)
            )
            raise DataError(f"{self.path}: cannot be loaded: {error}{how}") from error
        return dataset.with_format(None)  # a saved data set remembers the format it was last read in

    def _choose_split(self, saved: Any) -> Any:
        """The split of a `DatasetDict`, or a `Dataset` unless it says that it is another split."""
        if isinstance(saved, dict):
            if self.split not in saved:
                raise DataError(f"{self.path}: no split {self.split!r}{suggest(self.split, saved)}")
            return saved[self.split]
        if saved.split is not None and str(saved.split) != self.split:
            held = str(saved.split)
            raise DataError(f"{self.path}: holds split {held!r}, not {self.split!r}; set split={held} if you mean it")
        return saved

    def _arguments(self) -> str:
        given = [self.path, *([self.name] if self.name else [])]
        pinned = [f"revision={self.revision!r}"] if self.revision else []
        return ", ".join([*map(repr, given), *pinned])

    def _column(self, field: str, name: str | None, fits: dict[str, bool], features: Any) -> str:
        if name is not None:
            if name not in features:
                raise DataError(f"{self.path}: no column {name!r}{suggest(name, features)}")
            return name
        candidates = [column for column, fit in fits.items() if fit]
        if len(candidates) != 1:
            columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
            raise DataError(f"{self.path}: set {field} to one of the columns: {columns}")
        return candidates[0]

    def _targets(self, dataset: Any, name: str, class_names: tuple[str, ...] | None) -> Tensor:
        from pyarrow import types

        column = dataset.select_columns([name]).with_format("arrow")[:].column(0)
        where = f"{self.path}: column {name!r} of split {self.split!r}"
        if not (types.is_integer(column.type) or types.is_boolean(column.type)):
            fix = f"make them indices with dataset.class_encode_column({name!r}) and save_to_disk"
            raise DataError(f"{where}: holds {column.type}, not class indices; {fix}")
        values = column.cast("int64").fill_null(-1).to_numpy()
        if (values == -1).any():
            raise DataError(
                f"{where}: row {int((values == -1).argmax())} has no label; published test splits may have none"
            )
        return as_targets(values, class_names, where)


class _Rows(Samples):
    """One column of a data set, and the targets."""

    def __init__(self, inputs: Any, targets: Tensor, class_names: tuple[str, ...] | None, where: str) -> None:
        self._inputs = inputs
        self._targets = targets
        self._where = where
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            (value,) = self._inputs[index].values()
        except Exception as error:  # PIL's decoders raise whatever a broken image leads them to
            raise DataError(f"{self._where}: row {index} cannot be decoded: {error}") from error
        return value, int(self._targets[index])

    def fingerprint(self) -> str:
        return digest_content(zip(self._encoded(), self._targets.tolist(), strict=True))

    def _encoded(self) -> Iterator[Any]:
        import datasets

        ((name, feature),) = self._inputs.features.items()
        if not isinstance(feature, datasets.Image):
            yield from (row[name] for row in self._inputs.with_format("numpy"))
            return
        for row in self._inputs.cast_column(name, datasets.Image(decode=False)):
            yield row[name]["bytes"] or Path(row[name]["path"]).read_bytes()
