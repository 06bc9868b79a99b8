"""Checkpoints on the Hugging Face hub, as directories on this machine."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from fusion_eval.errors import CheckpointError

__all__ = ["local_path"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FILE = re.compile(r".*\.(safetensors|pth?|bin|ckpt|gguf)")
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = ("*.safetensors", "*model*.bin")
"""In order of preference: a repository often has the same weights in several formats."""


def local_path(path: str | Path) -> Path:
    """Where a checkpoint is on this machine, after a download if it is an id on the hub.

    Args:
        path: A file or directory; or `owner/name` on the hub, or `owner/name@revision` with a commit, tag or branch to
            pin it. What exists here is never looked for there.

    Returns:
        The file or directory; of a hub id the directory in the cache of `huggingface_hub`, with configurations,
        tokenizer files and weights in one format.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached (`HF_HUB_OFFLINE=1`) and has not been before;
            the message says where it was looked for and what to download.

    Example:
        >>> local_path(".")
        PosixPath('.')
    """
    place = Path(path).expanduser()
    if place.exists():
        return place
    if not _HUB_ID.fullmatch(str(path)) or _FILE.fullmatch(str(path)):
        raise CheckpointError(f"{path}: no such file or directory")
    return _downloaded(str(path))


@functools.cache
def _downloaded(path: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError as error:
        raise CheckpointError(
            f'{path}: no such directory here, and the Hugging Face hub needs an extra: pip install "fusion-eval[hf]"'
        ) from error
    name, _, revision = path.partition("@")
    directory = Path()
    try:
        for weights in _WEIGHTS:
            patterns = [*_SMALL, weights]
            directory = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
            if any(directory.glob(weights)):
                break
    except Exception as error:  # network, rights, names: each with an error of its own
        pinned = f" --revision {revision}" if revision else ""
        reason = str(error).strip().rstrip(".")
        raise CheckpointError(
            f"{path}: there is no directory {Path(path).absolute()}, nor is it in the cache of the Hugging Face hub, "
            f"{HF_HUB_CACHE}, and it could not be downloaded: {reason}. If a directory is meant, correct the path; if "
            f"a repository on the hub, run `hf download {name}{pinned} --local-dir DIR` where there is a network, "
            f"bring DIR here and give it instead of {path}"
        ) from error
    return directory
