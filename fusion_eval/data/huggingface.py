"""Hugging Face `datasets`: from the hub, from `save_to_disk`, from a directory of data files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_eval.data.arrays import AsInput
from fusion_eval.data.huggingface_rows import Column, Rows
from fusion_eval.data.huggingface_targets import TARGET_TYPES, read_targets
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.data.transform import ImageTransform, TransformedSamples
from fusion_eval.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["HuggingFace"]

_DOWNLOAD = (
    ". There is no directory {place}: if one is meant, correct path; if a data set on the Hugging Face hub, run "
    "datasets.load_dataset({arguments}, split={split!r}).save_to_disk('DIR') where there is a network, bring DIR here "
    "and set path to it"
)
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_SEVERAL = ("vector", "labels")
"""Target types that may be spread over several columns."""


@dataclass(frozen=True)
class HuggingFace(DataSource):
    """One split of a Hugging Face data set, memory-mapped; rows are decoded when they are asked for.

    What `target_type` makes of the target column or columns:

    - `class`: an integer in `[0, c)`, from a column of integers or a `ClassLabel`.
    - `number`: a float32 scalar.
    - `vector`: float32 `(k,)`, from a column of lists of one length, or from `k` columns of numbers.
    - `labels`: float32 `(c,)`, 1 where a class is there and 0 elsewhere, from a column of `List(ClassLabel)`, or from
      `c` columns of 0 and 1, which name the classes.
    - `text`: a string.
    - `array`: a tensor of any shape from an image or nested numbers, read when it is asked for, NaN included.

    The fingerprint is one of the content: encoded images, inputs, targets, groups, in order. It reads the whole split,
    because the one of the `datasets` library differs between machines.

    Args:
        path: A directory written by `save_to_disk`, a directory of data files, or an id on the hub.
        name: The configuration, where the data set has several.
        split: `test`, or for data files and the hub any expression of the library such as `test[:100]`.
        revision: Commit, tag or branch on the hub; pin it for numbers that can be reproduced.
        input: The input column; None takes the only image column. Of a list of columns the transform gets a dict.
        target: The target column, or a list of them for `vector` and `labels`; None takes the only column of
            `ClassLabel` (for `labels`: of `List(ClassLabel)`).
        transform: From the value of the input column (a PIL image, a list, a string) to what the model takes; None
            means `ImageTransform()` for images, and numbers as tensors (floats as float32) otherwise.
        target_type: See above.
        expected_size: How many samples the split has where it is the one of the published numbers: of `split`, or
            split to number. Other splits and slices such as `test[:100]` are not checked.
        size_note: What else goes by the name of this data set, for the message about another size.
        group: The column that says which samples belong together (see `Samples.groups`).

    Raises:
        ConfigError: `target_type` is none of these, it does not take several columns, or a size is not positive.

    Example:
        >>> HuggingFace("tanganke/sun397", revision="main", expected_size=19_850).expected_size
        {'test': 19850}
    """

    path: str
    name: str | None = None
    split: str = "test"
    revision: str | None = None
    input: str | list[str] | None = None
    target: str | list[str] | None = None
    transform: Callable[..., Any] | None = None
    target_type: str = "class"
    expected_size: int | Mapping[str, int] | None = None
    size_note: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.target_type not in TARGET_TYPES:
            raise ConfigError(f"HuggingFace: target_type={self.target_type!r}{suggest(self.target_type, TARGET_TYPES)}")
        if isinstance(self.target, list) and self.target_type not in _SEVERAL:
            raise ConfigError(
                f"HuggingFace: target={self.target} with target_type={self.target_type!r}; several columns go with "
                f"{' and '.join(_SEVERAL)}"
            )
        for field in ("input", "target"):
            if getattr(self, field) == []:
                raise ConfigError(f"HuggingFace: {field}=[]; name at least one column")
        if isinstance(self.expected_size, int):  # bound to its split, so that it is not expected of another one later
            object.__setattr__(self, "expected_size", {self.split: self.expected_size})
        for split, size in dict(self.expected_size or {}).items():  # type: ignore[arg-type]
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"HuggingFace: expected_size={size!r} of {split!r}; it should be at least 1")

    def load(self) -> Samples:
        """Open the split, after a download if the path is an id on the hub.

        Returns:
            Items `(transform(input), target)`.

        Raises:
            DataError: `datasets` is not installed, the data cannot be had or has another size, a column is ambiguous,
                a row has no target or group.
        """
        try:
            import datasets
        except ImportError as error:
            raise DataError('Hugging Face data sets need an extra: pip install "fusion-eval[hf]"') from error
        dataset = self._open()
        self._check_size(len(dataset))
        where = f"{self.path}: split {self.split!r}"
        target_names = self._target_columns(dataset.features)
        targets = read_targets(dataset, target_names, self.target_type, where)
        inputs: Column | dict[str, Column]
        if isinstance(self.input, list):
            names = [self._named(name, dataset.features) for name in self.input]
            inputs, is_image = {name: Column(dataset, name, self.path) for name in names}, False
        else:
            name = self._input_column(dataset.features, target_names)
            inputs, is_image = Column(dataset, name, self.path), isinstance(dataset.features[name], datasets.Image)
        rows = Rows(inputs, targets.values, targets.class_names, self._groups(dataset))
        return TransformedSamples(rows, self.transform or (ImageTransform() if is_image else AsInput()))

    def _check_size(self, found: int) -> None:
        expected = dict(self.expected_size or {}).get(self.split)  # type: ignore[arg-type]
        if expected not in (None, found):
            note = f" ({self.size_note.rstrip('.')})" if self.size_note else ""
            raise DataError(
                f"{self.path}: split {self.split!r} has {found:,} samples, expected {expected:,}{note}: numbers on it "
                "cannot be compared with published ones; set path to the right data, or expected_size=null if you mean "
                "these"
            )

    def _input_column(self, features: Any, targets: list[str]) -> str:
        import datasets

        if isinstance(self.input, str):
            return self._named(self.input, features)
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        return self._only("input", [name for name in images if name not in targets], features)

    def _target_columns(self, features: Any) -> list[str]:
        import datasets

        if self.target is not None:
            names = self.target if isinstance(self.target, list) else [self.target]
            return [self._named(name, features) for name in names]
        many = self.target_type == "labels"
        kinds = {name: getattr(feature, "feature", None) if many else feature for name, feature in features.items()}
        fits = self.target_type in ("class", "labels")
        labels = [name for name, kind in kinds.items() if fits and isinstance(kind, datasets.ClassLabel)]
        return [self._only("target", labels, features)]

    def _groups(self, dataset: Any) -> np.ndarray | None:
        """Shape `(n,)`, integers or strings."""
        if self.group is None:
            return None
        values = dataset[self._named(self.group, dataset.features)][:]
        for row, value in enumerate(values):
            if not isinstance(value, (int, str)):
                raise DataError(f"{self.path}: group column {self.group!r}, row {row}: {value!r} is no name or number")
        return np.array(values)

    def _named(self, name: str, features: Any) -> str:
        if name not in features:
            raise DataError(f"{self.path}: no column {name!r}{suggest(name, features)}")
        return name

    def _only(self, field: str, candidates: list[str], features: Any) -> str:
        if len(candidates) != 1:
            columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
            raise DataError(f"{self.path}: set {field} to one of the columns: {columns}")
        return candidates[0]

    def _open(self) -> Any:
        import datasets

        path = Path(self.path)
        if not path.exists() and not _HUB_ID.fullmatch(self.path):
            raise DataError(f"{self.path}: no such directory; give one of save_to_disk, one of data files, or a hub id")
        try:
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                dataset = self._choose_split(self._saved())
            else:
                dataset = datasets.load_dataset(self.path, self.name, split=self.split, revision=self.revision)
        except ValueError as error:  # a wrong name or split; the library lists the right ones
            raise DataError(f"{self.path}: {error}") from error
        except DataError:
            raise
        except Exception as error:  # network, cache and file formats, each with errors of its own
            meant = {"place": path.absolute(), "arguments": self._arguments(), "split": self.split}
            how = "" if path.exists() else _DOWNLOAD.format(**meant)
            raise DataError(f"{self.path}: cannot be loaded: {str(error).strip().rstrip('.')}{how}") from error
        return dataset.with_format(None)  # a saved data set remembers the format it was last read in

    def _saved(self) -> Any:
        import datasets

        try:
            return datasets.load_from_disk(self.path)
        except IndexError as error:
            raise DataError(f"{self.path}: it was saved with a split of no samples, which cannot be read") from error

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
