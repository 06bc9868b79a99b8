"""What glibc's allocator does with memory that is freed between the layers of a forward."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, in `malloc.h`."""

_KEPT = 2**29
"""Bytes of free memory at the end of the heap above which they are given back: more than activations take."""

_MAPPED = 2**25
"""Bytes from which on a tensor gets pages of its own, given back with it: the largest value that glibc takes."""

_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc keep the memory of activations from one layer and batch to the next.

    As it is, it gives most of it back to the system after each layer, and gets it again page by page, each filled with
    zeros: a tenth of the time of CLIP ViT-B/32 on a CPU, a fifth in batches of 64. Where the environment says something
    about it, and with another C library, nothing is done.

    Example:
        >>> keep_freed_memory()
    """
    try:
        glibc = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return
    if glibc and not any(name in os.environ for name in _SETTINGS):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MAPPED)
        mallopt(_TRIM_THRESHOLD, _KEPT)
