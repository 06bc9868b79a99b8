"""Imports that Python's garbage collector does not disturb."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected_imports"]


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Leave the garbage collector off while the packages of an evaluation are imported, and leave them out of it later.

    Torch and Lightning bring 700,000 objects and hardly any garbage, and whenever their number has grown by a quarter
    the collector goes through all of them, as it does several times when the interpreter ends. Nearly all stay as long
    as the process, so they are frozen. Once torch is there, nothing as large is to come, and nothing is done: what the
    jobs of a sweep leave behind is collected.

    Example:
        >>> import torch
        >>> with uncollected_imports():
        ...     gc.isenabled()
        True
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
