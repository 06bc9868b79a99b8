"""Checkpoints as state dicts of an architecture, opened when they are asked for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from fusion_eval.merging.state_dict import StateDict, identity_of
from fusion_eval.models.adapter import is_adapter, read_adapter
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict, prefix_of
from fusion_eval.models.hub import local_path
from fusion_eval.stamps import file_identity

__all__ = ["StoredExperts", "StoredWeights", "open_weights"]


class StoredWeights(dict[str, Tensor]):
    """A state dict from disk, and what tells it from others: see `merging.state_dict.identity_of`.

    Args:
        tensors: The state dict.
        identity: Equal for equal weights only; None where nothing but the values tells.
    """

    def __init__(self, tensors: StateDict, identity: Hashable | None) -> None:
        super().__init__(tensors)
        self.identity = identity


def open_weights(path: str, expected: StateDict, leave_out: Sequence[str] = ()) -> StoredWeights:
    """Open a checkpoint under the names of an architecture.

    Args:
        path: As `load_state_dict` takes it.
        expected: `state_dict()` of the architecture.
        leave_out: See `ModelPool`.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    stored = {
        name: tensor
        for name, tensor in load_state_dict(path).items()
        if not any(fnmatchcase(name, pattern) for pattern in leave_out)
    }
    prefix = prefix_of(stored, expected, path)  # a file may hold several architectures
    return StoredWeights(fit_state_dict(stored, expected, path), (prefix, _identity(path)))


def _identity(path: str) -> Hashable:
    """What the file system knows of the file, or of all files of the directory."""
    place = Path(_here(path)).expanduser()
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    return (path, tuple((str(file.resolve()), file_identity(file)) for file in files))


def _here(path: str) -> str:
    """The path of what is on the hub, after a download."""
    return path if path.startswith("pkg://") else str(local_path(path))


@dataclass(frozen=True)
class StoredExperts(Mapping[str, StateDict]):
    """The experts by name, each opened when it is asked for, and not kept.

    Attributes:
        paths: Expert name to its checkpoint.
        base: What an adapter is added to.
        expected: `state_dict()` of the architecture.
        leave_out: See `ModelPool`.
    """

    paths: Mapping[str, str]
    base: StateDict
    expected: StateDict
    leave_out: Sequence[str] = ()

    def __getitem__(self, name: str) -> StateDict:
        path = _here(self.paths[name])
        if is_adapter(path):
            base = identity_of(self.base)
            return read_adapter(path, self.base, base and (_identity(path), base))
        return open_weights(path, self.expected, self.leave_out)

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
