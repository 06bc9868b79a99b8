"""Checkpoints on disk, of any common form, to one state dict. Nothing in them is ever executed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.models.gguf import read_gguf
from fusion_eval.models.hub import local_path
from fusion_eval.models.older_names import with_present_names

__all__ = ["load_state_dict"]

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_HUGGING_FACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint, to the CPU, memory-mapped where its format allows.

    Args:
        path: One of
            a `.safetensors` file;
            a `.pt`, `.pth`, `.bin` or Lightning `.ckpt` file, read with `weights_only=True`: a state dict, bare or
            under "state_dict", "model_state_dict", "model" or "module";
            a `.gguf` file of a causal language model, read by transformers and dequantised to float32;
            a Hugging Face directory, with `model.safetensors` or `pytorch_model.bin`, in one file or in shards;
            `pkg://package.name/inner/path`, any of these inside an importable package;
            `owner/name` or `owner/name@revision`, such a directory on the Hugging Face hub.

    Returns:
        Tensor names to tensors, with names, shapes and dtypes as stored, but for `.gguf` and for the layer norms of old
        BERTs (see `fusion_eval.models.older_names`).

    Raises:
        CheckpointError: the checkpoint is missing, empty, damaged, incomplete, of an unknown form, or a pickle that
            could run code; the message names the file.
    """
    if not str(path).startswith("pkg://"):
        return with_present_names(_read(local_path(path)))
    package, _, inner = str(path).removeprefix("pkg://").partition("/")
    try:
        resource = files(package).joinpath(inner)
    except (ImportError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: there is no package {package!r} to read {inner!r} from") from error
    with as_file(resource) as file:
        return with_present_names(_read(file))


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return _read_directory(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    if path.suffix == ".safetensors":
        read = _read_safetensors
    elif path.suffix == ".gguf":
        read = read_gguf
    elif path.suffix in _PICKLED:
        read = _read_pickle
    else:
        known = ", ".join((".safetensors", ".gguf", *_PICKLED))
        raise CheckpointError(f"{path}: unknown kind of checkpoint {path.suffix!r}; known: {known}, or a directory")
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise CheckpointError(f"{path}: the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: this is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    state_dict = read(path)
    if not state_dict:
        raise CheckpointError(f"{path}: holds no tensors")
    return state_dict


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle makes torch raise anything, IndexError and UnicodeError included
        if named := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: it holds Python objects ({named[1]}), not only tensors, and loading those would run code "
                "from the file; save the state dict alone, best as safetensors"
            ) from error
        raise CheckpointError(f"{path}: damaged or not a PyTorch checkpoint") from error
    return _unwrap(content, path)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a pickle holds: the mapping itself, or its one item that is known to be a state dict."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, where a state dict is expected")
    wrapped = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
    state_dict: Mapping[object, object] = next(wrapped, content)
    tensors = {
        name: value.detach()
        for name, value in state_dict.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if len(tensors) < len(state_dict):
        stranger = next(name for name in state_dict if name not in tensors)
        where = ", ".join(_WRAPPERS)
        raise CheckpointError(f"{path}: {stranger!r} is no named tensor; expected a state dict, bare or under {where}")
    return tensors


def _read_directory(path: Path) -> dict[str, Tensor]:
    found = next((path / name for name in _HUGGING_FACE if (path / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{path}: the directory has no weights; expected one of {', '.join(_HUGGING_FACE)}")
    return _read_shards(found) if found.suffix == ".json" else _read(found)


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        shard_of = {name: index.with_name(shard) for name, shard in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{index}: damaged; expected {{"weight_map": {{tensor: file beside it}}}}') from error
    shards = {shard: _read(shard) for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{shard}: lacks tensor {name}, which {index.name} says is in it")
    return {name: shards[shard][name] for name, shard in shard_of.items()}
