"""Tokenizers of Hugging Face checkpoints: loaded once a process, known by their content."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fusion_eval.data.digest import digest_content
from fusion_eval.errors import DataError

__all__ = ["fallback_token", "identify_tokenizer", "load_tokenizer", "model_limit"]

_UNKNOWN_LIMIT = 10**9
"""Transformers writes 1e30 where a tokenizer does not know how long an input its model takes."""


@functools.cache
def load_tokenizer(path: str, revision: str | None = None, truncation: str = "right") -> Any:
    """The tokenizer of a checkpoint, read once in this process; code that comes with a checkpoint is not run.

    Args:
        path: A directory with the tokenizer's files; or `owner/name` on the hub, or `owner/name@revision`.
        revision: Commit, tag or branch on the hub, if it is not in `path`.
        truncation: The side that is cut from a text that is too long, "right" or "left".

    Returns:
        A `transformers.PreTrainedTokenizerBase`.

    Raises:
        DataError: transformers is not installed, or there is no tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError('Tokenizers need an extra: pip install "fusion-eval[hf]"') from error
    if Path(path).is_absolute() and not Path(path).is_dir():
        raise DataError(f"{path}: no such directory; expected one with tokenizer.json and tokenizer_config.json")
    name, _, pinned = (path, "", "") if Path(path).is_dir() else path.partition("@")
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or pinned or "main", truncation_side=truncation)
    except Exception as error:  # network, cache and files in many formats, each with errors of its own
        reason = str(error).strip().split("\n", 1)[0]
        fix = (
            "expected the files that save_pretrained of a tokenizer writes (tokenizer.json, tokenizer_config.json)"
            if Path(path).is_dir()
            else f"there is no directory {Path(path).absolute()}: if one is meant, correct the path; if a repository "
            f"on the Hugging Face hub, run transformers.AutoTokenizer.from_pretrained({name!r}).save_pretrained('DIR') "
            "where there is a network, bring DIR here and set tokenizer to it"
        )
        raise DataError(f"{path}: no tokenizer can be loaded: {reason}; {fix}") from error


@functools.cache
def identify_tokenizer(path: str, revision: str | None = None) -> str:
    """A digest of what `save_pretrained` writes of a tokenizer: equal wherever its files lie.

    Its configuration counts by the special tokens alone: the rest of it names versions and paths.

    Raises:
        DataError: see `load_tokenizer`.
    """
    tokenizer = load_tokenizer.__wrapped__(path, revision)  # a fresh one: calls leave traces in what is saved
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        content = [(file.name, file.read_bytes()) for file in files if file.name != "tokenizer_config.json"]
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    return digest_content([type(tokenizer).__name__, special, content])


def model_limit(tokenizer: Any) -> int | None:
    """How many tokens the tokenizer says that its model takes, None where it does not say."""
    limit = int(tokenizer.model_max_length)
    return limit if limit < _UNKNOWN_LIMIT else None


def fallback_token(tokenizer: Any, *names: str) -> int:
    """The id of the first special token that the tokenizer has of `names`, in this order: pad, bos, eos, ...; else 0.

    Example:
        >>> class WithoutPad:
        ...     pad_token_id, eos_token_id = None, 7
        >>> fallback_token(WithoutPad(), "pad", "eos")
        7
    """
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return next((int(token) for token in ids if token is not None), 0)
