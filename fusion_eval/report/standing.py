"""Whether a directory holds what would be written there again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_eval.errors import DataError
from fusion_eval.report.seal import file_digest, open_sealed

__all__ = ["lasting_digest", "stands"]

_PAGES = ("report.md", "report.html")


def lasting_digest(document: Mapping[str, Any]) -> str:
    """Digest of a report.json but for what is another each time: when and where it was written, by which command.

    Args:
        document: Its content, without the seal.
    """
    lasting = {**document, "provenance": document["provenance"]["config"]}
    return hashlib.sha256(json.dumps(lasting).encode()).hexdigest()


def stands(directory: Path, digest: str, config: Mapping[str, Any]) -> bool:
    """Whether a run directory holds a certain report, its pages, and the samples that it names, byte for byte.

    Args:
        directory: Of the run.
        digest: Of `lasting_digest`.
        config: That the report records.
    """
    try:
        document = open_sealed(directory / "report.json")
        samples = {path.relative_to(directory).as_posix() for path in (directory / "samples").rglob("*.parquet")}
        return (
            lasting_digest(document) == digest
            and json.dumps(document["provenance"]["config"]) == json.dumps(config, default=str)
            and samples == document["samples"].keys()
            and all(file_digest(directory / name) == found for name, found in document["samples"].items())
            and all((directory / page).is_file() for page in _PAGES)
        )
    except (DataError, KeyError, TypeError):  # none, another version's, or changed
        return False
