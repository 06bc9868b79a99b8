"""Digest of plain values; in a file of its own, as whoever reads stored results needs no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["fingerprint_config"]


def fingerprint_config(*values: Any) -> str:
    """Digest of plain values (what `to_config` returns), whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
