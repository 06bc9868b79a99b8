"""Which code an object runs, named so that it means the same in another process and on another machine."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["UndescribableError", "code_name", "code_versions", "is_installed"]

_STANDARD = set(sys.stdlib_module_names) - {"__main__"}
_STANDARD_FILES = sysconfig.get_path("stdlib")


class UndescribableError(Exception):
    """A value for which there is no text that means the same in another process."""


def code_name(value: Any) -> str:
    """The name under which a class or function is found in its module.

    Raises:
        UndescribableError: it is not found there: a lambda, something defined in a function, or replaced since.

    Example:
        >>> from collections import OrderedDict
        >>> code_name(OrderedDict)
        'collections.OrderedDict'
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise UndescribableError(f"{value!r} is not importable by name")
    return f"{module}.{name}"


def code_versions(*values: Any) -> dict[str, str]:
    """What the code of classes and functions is: the versions of packages and the content of the user's own files.

    A file counts whole, and with it those of the user's files that it takes names from, so that a change in a helper
    is seen. An installed package counts by its version.

    Returns:
        Name of a package or module to a version or the digest of a file.

    Raises:
        UndescribableError: a value comes from no file, as what was typed at a prompt does.

    Example:
        >>> from torch import nn
        >>> list(code_versions(nn.Linear))
        ['torch']
    """
    found: dict[str, str] = {}
    for value in values:
        found |= _versions(_module_of(value))
    return found


@functools.cache
def _versions(module: ModuleType) -> dict[str, str]:
    """Of a module and what it takes names from, as they were when it was first asked for."""
    found: dict[str, str] = {}
    _add(module, found)
    return found


def _add(module: ModuleType, found: dict[str, str]) -> None:
    package = module.__name__.partition(".")[0]
    if package in _STANDARD or package in found or module.__name__ in found:
        return
    file = getattr(module, "__file__", None)
    if file is None:
        raise UndescribableError(f"{module.__name__} comes from no file")
    version = _version(package) if is_installed(Path(file)) else None
    if version is not None:
        found[package] = version
        return
    found[module.__name__] = _digest(Path(file))
    for value in list(vars(module).values()):
        other = value if isinstance(value, ModuleType) else sys.modules.get(_home(value))
        if other is not None and getattr(other, "__file__", None) is not None:
            _add(other, found)


@functools.cache
def _digest(file: Path) -> str:
    """Of the content when it is first asked for: what is edited later is not what this process runs."""
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UndescribableError(f"no source: {error}") from error


def _module_of(value: Any) -> ModuleType:
    module = sys.modules.get(_home(value))
    if module is None:
        raise UndescribableError(f"{value!r} belongs to no module")
    return module


def _home(value: Any) -> str:
    """Name of the module in which a class or function, or the class of any other value, is defined."""
    definition = value if isinstance(value, (type, FunctionType)) else type(value)
    return str(definition.__module__)


def is_installed(file: Path) -> bool:
    """Whether a source file belongs to Python or an installed package, and so to a version."""
    return file.is_relative_to(_STANDARD_FILES) or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _version(package: str) -> str | None:
    """Version without the part that tells a build from another, such as `+cpu`."""
    version = getattr(sys.modules.get(package), "__version__", None)
    if not isinstance(version, str):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            return None
    return version.partition("+")[0]
