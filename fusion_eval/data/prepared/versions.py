"""Versions of packages, found without importing them."""

from __future__ import annotations

import functools
from contextlib import suppress
from importlib import metadata

__all__ = ["installed_versions"]


@functools.cache
def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed.

    Example:
        >>> list(installed_versions("numpy", "a-package-that-nobody-has"))
        ['numpy']
    """
    installed = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed
