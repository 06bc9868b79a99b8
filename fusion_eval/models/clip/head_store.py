"""Heads that have been built before, on disk, by what they were built from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.errors import FusionEvalError
from fusion_eval.report.atomic import atomic_file

__all__ = ["head_directory", "stored_or_built"]

_CONTENT = "content"
"""Key of the file's metadata: digest of the tensors that were written."""

_log = logging.getLogger(__name__)


def head_directory() -> Path:
    """`heads` in the cache directory of fusion_eval: `FUSION_EVAL_CACHE`, else `~/.cache/fusion_eval`."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("FUSION_EVAL_CACHE", f"{cache}/fusion_eval"), "heads").expanduser()


def stored_or_built(key: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors under a key, or else those of `build`, which are kept.

    Of several processes that need the same ones, one builds and the others wait. A file that is not what was written is
    built anew. No trouble with the directory costs a run: it is logged, and the head is built.

    Args:
        key: Digest of all that decides the tensors.
        build: Makes them.
    """
    path = head_directory() / key[:2] / f"{key}.safetensors"
    known = _read(path)
    if known is not None:
        return known
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = _read(path)
            return _write(path, build()) if known is None else known
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        _log.warning("the head store %s fails, so heads are built again: %s", path.parent, error)
        return build()


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            written = (file.metadata() or {}).get(_CONTENT)
    except (OSError, SafetensorError) as error:
        _log.warning("%s is damaged and built anew: %s", path, error)
        return None
    if _digest(tensors) != written:
        _log.warning("%s is damaged and built anew: its content is not what was written", path)
        return None
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        with atomic_file(path) as file:
            file.write(save(tensors, metadata={_CONTENT: _digest(tensors)}))
    except FusionEvalError as error:
        _log.warning("a head is not kept: %s", error)
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest_content(sorted(tensors.items()))
