"""A merge on disk: written tensor by tensor, whole or not at all, in the form its base has."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.models.safetensors_writer import Layout, SafetensorsWriter, byte_count

__all__ = ["MergeWriter", "saving", "saving_together"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json")
_WHOLE = "model.safetensors"
_DTYPE_KEYS = {"dtype", "torch_dtype"}


@dataclass
class MergeWriter:
    """Takes the tensors of a merge in any order, and writes them while the next ones are merged.

    Attributes:
        target: Where the merge is saved.
        stored_name: Name in the architecture to name in the checkpoint.
        shard_of: Name in the checkpoint to what writes it.
        threads: One of them writes.
    """

    target: Path
    stored_name: Mapping[str, str]
    shard_of: Mapping[str, SafetensorsWriter]
    threads: Executor
    _writing: Future[None] | None = None

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one merged tensor; nothing if it is tied to another and the base stores only that.

        Args:
            name: In the architecture.
            tensor: Merged, of the dtype it is saved in; not to be changed any more.

        Raises:
            CheckpointError: The one before is not of the expected shape or dtype, was written already, or cannot be
                written.
        """
        if stored := self.stored_name.get(name):
            self.wait()
            self._writing = self.threads.submit(self.shard_of[stored].write, stored, tensor)

    def wait(self) -> None:
        """Until the last tensor is written, or raise what `write` does."""
        if self._writing is not None:
            with _naming(self.target):
                self._writing.result()


@contextmanager
def saving(
    path: str | Path,
    base_path: str | Path,
    stored: StateDict,
    stored_name: Mapping[str, str],
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> Iterator[MergeWriter]:
    """Write a merge while it is made.

    Everything is written beside `path` under a hidden name, reaches the disk, and gets its name when the block ends: a
    merge that fails or is interrupted leaves nothing, one that is killed only what is hidden. One tensor is held at a
    time: a thread writes it while the next one is merged. Tensors of the base checkpoint outside of the architecture
    (a head, another tower) are copied.

    Args:
        path: A file that ends in `.safetensors`, or else a directory, which is made. If the base is a directory, its
            files other than weights (configuration, tokenizer, processor; none of its subdirectories) are copied, so
            that Hugging Face's `from_pretrained` loads the one as the other.
        base_path: Path of the base.
        stored: The base checkpoint, as `load_state_dict` returns it. The merge has its names, shapes and dtypes.
        stored_name: Name in the architecture to name in `stored`, of all weights that are stored.
        dtype: Of the merged floating-point tensors, if not that of the base; the copied configuration then says so.
        max_shard_bytes: A directory holds `model.safetensors`, or, if its tensors take more bytes than this, several
            files that (unless one tensor takes more by itself) do not, and their index.

    Yields:
        What takes the merged tensors.

    Raises:
        CheckpointError: `path` is a file or a directory that is not empty, or cannot be written; a tensor of
            `stored_name` was not given.
    """
    target = _free(path)
    one_file = target.suffix == ".safetensors"
    merged = set(stored_name.values())
    layout = {
        name: (tuple(tensor.shape), dtype if dtype and name in merged and tensor.is_floating_point() else tensor.dtype)
        for name, tensor in stored.items()
    }
    shards = {_WHOLE: list(layout)} if one_file else _shards(layout, max_shard_bytes)
    hidden = _hidden(target)
    with ExitStack() as files:
        with _naming(target):
            hidden.mkdir(parents=True)
            files.callback(shutil.rmtree, hidden, ignore_errors=True)
            if not one_file:
                _copy_companions(Path(base_path).expanduser(), hidden, dtype)
                _write_index(shards, layout, hidden)
            opened = {file: files.enter_context((hidden / file).open("xb", buffering=0)) for file in shards}
            threads = files.enter_context(ThreadPoolExecutor(2))  # one writes, one waits for the disk
            writers = {
                file: SafetensorsWriter(opened[file], {name: layout[name] for name in names}, str(target), threads)
                for file, names in shards.items()
            }
            shard_of = {name: writers[file] for file, names in shards.items() for name in names}
            for name, tensor in stored.items():
                if name not in merged:
                    shard_of[name].write(name, tensor)
        writer = MergeWriter(target, stored_name, shard_of, threads)
        yield writer
        writer.wait()
        with _naming(target):
            for shard in writers.values():
                shard.finish()
            (hidden / _WHOLE if one_file else hidden).replace(target)


@contextmanager
def saving_together(path: str | Path) -> Iterator[Path]:
    """Save several merges in one directory, all or none of them.

    Args:
        path: The directory, which is made.

    Yields:
        Where to save them meanwhile.

    Raises:
        CheckpointError: `path` is a file or a directory that is not empty, or cannot be written.
    """
    target = _free(path)
    hidden = _hidden(target)
    try:
        yield hidden
        with _naming(target):
            hidden.replace(target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _free(path: str | Path) -> Path:
    target = Path(path).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise CheckpointError(f"{target}: exists already and is not overwritten; save the merge to another path")
    return target


def _hidden(target: Path) -> Path:
    """A place beside the target, on the same disk."""
    return target.with_name(f".{uuid.uuid4().hex}.tmp")


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}") from error


def _shards(layout: Layout, max_bytes: int) -> dict[str, list[str]]:
    """File names to the tensors in them, in order, each as full as it may be."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, form in layout.items():
        if groups[-1] and size + byte_count(*form) > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += byte_count(*form)
    if len(groups) == 1:
        return {_WHOLE: groups[0]}
    return {f"model-{number:05}-of-{len(groups):05}.safetensors": group for number, group in enumerate(groups, 1)}


def _write_index(shards: Mapping[str, list[str]], layout: Layout, directory: Path) -> None:
    if _WHOLE not in shards:
        index = {
            "metadata": {"total_size": sum(byte_count(*form) for form in layout.values())},
            "weight_map": {name: file for file, names in shards.items() for name in names},
        }
        (directory / f"{_WHOLE}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _copy_companions(base: Path, directory: Path, dtype: torch.dtype | None) -> None:
    """Copy what a Hugging Face directory holds beside weights; a configuration gets the dtype of the merge."""
    if not base.is_dir():
        return
    for file in base.iterdir():
        if not file.is_file() or file.name.startswith(".") or file.name.endswith(_WEIGHTS):
            continue
        if file.name == "config.json" and dtype:
            (directory / file.name).write_text(_config_text(file, dtype), encoding="utf-8")
        else:
            shutil.copyfile(file, directory / file.name)


def _config_text(file: Path, dtype: torch.dtype) -> str:
    """The configuration with the dtype in it, and in the configurations in it, under the name it has there."""
    word = str(dtype).removeprefix("torch.")

    def changed(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {
            key: word if key in _DTYPE_KEYS and isinstance(value, str) else changed(value)
            for key, value in node.items()
        }

    try:
        config = changed(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged: no JSON ({error})") from error
    if not config.keys() & _DTYPE_KEYS:
        config["torch_dtype"] = word
    return json.dumps(config, indent=2)
