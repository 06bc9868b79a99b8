"""A report that tells when it was changed: its JSON carries the digest of itself and of the files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusion_eval.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["file_digest", "open_sealed", "seal"]

_CLOSED = "\n}"


def seal(document: Mapping[str, Any]) -> bytes:
    """Write a document as JSON whose last key, "digest", is the SHA-256 of the JSON without it.

    Example:
        >>> print(seal({"status": "complete"}).decode())  # doctest: +ELLIPSIS
        {
          "status": "complete",
          "digest": "c53e..."
        }
        <BLANKLINE>
    """
    head = _head(document)
    return head + _tail(head)


def open_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed document; not one byte of the file may have changed.

    Raises:
        DataError: The file cannot be read, holds something else, or was changed after it was written.
    """
    try:
        data = path.read_bytes()
        document: Any = json.loads(data)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.pop("digest", None) is None:
        raise DataError(f"{path}: not a report of fusion-eval: it has no digest")
    head = data[: -len(_tail(b""))]
    if head + _tail(head) != data:
        raise DataError(f"{path}: changed after fusion-eval wrote it: its digest does not fit its content")
    return document


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _head(document: Mapping[str, Any]) -> bytes:
    """The JSON of a document that is not empty, but for what closes it."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return text.removesuffix(_CLOSED).encode(errors="backslashreplace")


def _tail(head: bytes) -> bytes:
    """The digest, and what closes the JSON; of the same length for every head."""
    digest = hashlib.sha256(head + f"{_CLOSED}\n".encode()).hexdigest()
    return f',\n  "digest": "{digest}"{_CLOSED}\n'.encode()
