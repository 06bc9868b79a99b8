"""Arrays in NumPy and safetensors files, and the rules that inputs and class indices of every source obey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.source import DataSource, Samples, TensorSamples
from fusion_eval.data.targets import NUMERIC_TARGETS, as_numbers
from fusion_eval.data.transform import TransformedSamples
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["Arrays", "AsInput", "as_inputs", "as_targets", "as_tensor"]

_SUFFIXES = (".npy", ".npz", ".safetensors")


@dataclass(frozen=True)
class Arrays(DataSource):
    """Inputs and targets as arrays: a pair of `.npy`, or one `.npz` or `.safetensors` with both.

    Floats become float32, integers int64; uint8 and bool stay. So uint8 images need a transform before a model of
    floats takes them: `ImageTransform` if they lie as `(n, h, w)` or `(n, h, w, 3)`. A float32, int64, uint8 or bool
    `.npy` is memory-mapped, as is a `.safetensors`. Pickled objects are refused.

    Args:
        inputs: File of the inputs, `(n, ...)`.
        targets: File of the targets; None if they lie in the file of the inputs.
        input_key: Name of the inputs in an `.npz` or `.safetensors`.
        target_key: Name of the targets there.
        class_names: The `c` classes in the order of their index.
        group_key: Name of the groups there, integers of shape `(n,)` (see `Samples.groups`), if it has any.
        transform: From one input (a tensor) to what the model takes; None passes it on as it is.
        target_type: `class`: integers `(n,)` in `[0, c)`. In float32, `number`: `(n,)`; `vector`: `(n, k)`; `labels`:
            `(n, c)`, 1 for each class that is there and 0 for the others.

    Raises:
        ConfigError: a file has another suffix, an `.npy` of inputs comes without targets, or the type is none of these.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/toy.npz", inputs=np.eye(3), targets=np.array([2, 0, 1]))
        ...     Arrays(f"{folder}/toy.npz").load()[0]
        (tensor([1., 0., 0.]), tensor(2))
    """

    inputs: str
    targets: str | None = None
    input_key: str = "inputs"
    target_key: str = "targets"
    class_names: list[str] | None = None
    transform: Callable[..., Any] | None = None
    group_key: str | None = None
    target_type: str = "class"

    def __post_init__(self) -> None:
        for field in ("inputs", "targets"):
            path = getattr(self, field)
            if path is not None and Path(path).suffix not in _SUFFIXES:
                raise ConfigError(f"Arrays: {field}={path!r}; it should end in {', '.join(_SUFFIXES)}")
        if self.targets is None and Path(self.inputs).suffix == ".npy":
            raise ConfigError(f"Arrays: {self.inputs} holds one array; set targets to the file of the targets")
        if self.target_type not in (known := ("class", *NUMERIC_TARGETS)):
            raise ConfigError(f"Arrays: target_type={self.target_type!r}{suggest(self.target_type, known)}")

    def load(self) -> Samples:
        """Map or read the arrays, and check every value.

        Returns:
            Items `(input, target)`; a `TensorSamples` if there is no transform.

        Raises:
            DataError: a file or key is missing, lengths differ, a target is no class, an input is NaN or infinite.
        """
        inputs = as_inputs(_read(Path(self.inputs), self.input_key), self.inputs)
        targets_path = self.targets or self.inputs
        targets = self._targets(_read(Path(targets_path), self.target_key), targets_path)
        if len(inputs) != len(targets):
            raise DataError(f"{self.inputs}: {len(inputs)} inputs, but {targets_path} has {len(targets)} targets")
        samples = TensorSamples(inputs, targets, self.class_names, self._groups(len(targets)))
        return samples if self.transform is None else TransformedSamples(samples, self.transform)

    def _targets(self, values: np.ndarray | Tensor, path: str) -> Tensor:
        if self.target_type == "class":
            return as_targets(values, self.class_names, path)
        targets = as_numbers(as_tensor(values, path), self.target_type, path)
        if self.target_type == "labels" and self.class_names is not None and targets.shape[1] != len(self.class_names):
            raise DataError(
                f"{path}: labels for {targets.shape[1]} classes, but class_names has {len(self.class_names)}"
            )
        return targets

    def _groups(self, n: int) -> np.ndarray | None:
        if self.group_key is None:
            return None
        path = self.targets or self.inputs
        groups = as_tensor(_read(Path(path), self.group_key), path)
        if groups.shape != (n,) or groups.is_floating_point():
            found = f"{groups.dtype} of shape {tuple(groups.shape)}".removeprefix("torch.")
            raise DataError(f"{path}: groups {self.group_key!r} are {found}; they should be {n} integers")
        return groups.numpy()


@dataclass(frozen=True)
class AsInput:
    """The transform of sources that were given none: an input, or each of several, as a tensor: see `Arrays`.

    Example:
        >>> AsInput()([1.5, 2.0])
        tensor([1.5000, 2.0000])
    """

    def __call__(self, value: Any) -> Any:
        """Convert numbers, of a mapping each entry.

        Raises:
            DataError: anything else, or a number that is NaN or infinite.
        """
        if isinstance(value, Mapping):
            return {name: self(entry) for name, entry in value.items()}
        if not isinstance(value, (Tensor, np.ndarray, np.generic, list, tuple, int, float)):
            hint = "for images to {_target_: fusion_eval.data.ImageTransform}"
            raise DataError(f"the input is a {type(value).__name__}, not numbers; set transform, {hint}")
        tensor = as_tensor(value if isinstance(value, Tensor) else np.asarray(value), "the input")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError("NaN or infinity in the input")
        return tensor


def as_inputs(values: np.ndarray | Tensor, where: str) -> Tensor:
    """Inputs as a model takes them: floats as float32, integers as int64, uint8 and bool as they are.

    Args:
        values: Shape `(n, ...)`, `n >= 1`.
        where: The file or column, for messages.

    Raises:
        DataError: no rows, no numbers, or a value that is NaN or infinite (in float32).
    """
    inputs = as_tensor(values, where)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise DataError(f"{where}: inputs of shape {tuple(inputs.shape)}; there should be at least one row")
    if inputs.is_floating_point():
        _require_finite(inputs, where)
    return inputs


def as_targets(values: np.ndarray | Tensor, class_names: Sequence[str] | None, where: str) -> Tensor:
    """Class indices as int64.

    Args:
        values: Shape `(n,)`, integers. Floats are refused even if integral: they may have been something else.
        class_names: The classes, or None if only negative indices are known to be wrong.
        where: The file or column, for messages.

    Raises:
        DataError: another shape or dtype, or an index that is no class; the message names the row.
    """
    targets = as_tensor(values, where)
    if targets.ndim != 1:
        hint = "; of one-hot rows, save the argmax" if targets.ndim == 2 else ""
        raise DataError(f"{where}: targets of shape {tuple(targets.shape)}; it should be (n,){hint}")
    if targets.is_floating_point():
        raise DataError(f"{where}: targets are {values.dtype}; class indices should be integers")
    targets = targets.long()
    wrong = targets < 0
    if class_names is not None:
        wrong |= targets >= len(class_names)
    if wrong.any():
        row = int(wrong.int().argmax())
        wanted = ">= 0" if class_names is None else f"in [0, {len(class_names)})"
        raise DataError(f"{where}: target {int(targets[row])} of row {row}; a class index should be {wanted}")
    return targets


def as_tensor(values: np.ndarray | Tensor, where: str) -> Tensor:
    """Numbers of any shape as a tensor: floats as float32, integers as int64, uint8 and bool as they are.

    Raises:
        DataError: no numbers, or complex ones.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{where}: dtype {values.dtype}; it should be numbers")
        if values.dtype != np.uint8:
            kinds = {"f": np.float32, "b": np.bool_, "i": np.int64, "u": np.int64}
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is found as such
                values = values.astype(kinds[values.dtype.kind], copy=False)
        return torch.from_numpy(values if values.flags.writeable else values.copy())
    if values.is_complex():
        raise DataError(f"{where}: dtype {values.dtype}; it should be numbers")
    if values.is_floating_point():
        return values.float()
    return values if values.dtype in (torch.uint8, torch.bool) else values.long()


def _require_finite(inputs: Tensor, where: str) -> None:
    start = 0
    for rows in torch.split(inputs, 256):  # a memory-mapped file need not fit into memory
        finite = rows.isfinite().reshape(len(rows), -1).all(dim=1)
        if not finite.all():
            raise DataError(f"{where}: NaN or infinity in the inputs of row {start + int(finite.int().argmin())}")
        start += len(rows)


def _read(path: Path, key: str) -> np.ndarray | Tensor:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, key)
        if path.suffix == ".npz":
            return _read_npz(path, key)
        # Copy on write: torch wants memory it may write to, the file must stay as it is.
        return np.lib.format.open_memmap(path, mode="c")
    except DataError:
        raise
    except Exception as error:  # a damaged file raises what its parser stumbles over: zlib, tokenize, zipfile errors
        raise DataError(f"{path}: not a readable {path.suffix} file: {error}") from error


def _read_npz(path: Path, key: str) -> np.ndarray:
    with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise DataError(f"{path}: no array {key!r}{suggest(key, archive.files)}")
        return np.asarray(archive[key])


def _read_safetensors(path: Path, key: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        if key not in file.keys():  # noqa: SIM118 -- the file is no mapping
            raise DataError(f"{path}: no tensor {key!r}{suggest(key, file.keys())}")
        tensor: Tensor = file.get_tensor(key)
    return tensor
