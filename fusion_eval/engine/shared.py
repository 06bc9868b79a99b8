"""What the tasks and the jobs of one process share, as long as the files it was loaded from do not change."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fusion_eval.config import to_config
from fusion_eval.data.source import FromFiles
from fusion_eval.errors import ConfigError
from fusion_eval.stamps import Stamp, stamp

__all__ = ["Kept", "Shared"]

T = TypeVar("T")


@dataclass(frozen=True)
class Kept(Generic[T]):
    """Something that was loaded.

    Attributes:
        thing: It.
        config: What describes it, as JSON; None: nothing does.
        paths: The files and directories it was loaded from; empty: unknown.
        stamp: Of these, when it was loaded.
    """

    thing: T
    config: str | None = None
    paths: tuple[Path, ...] = ()
    stamp: Stamp | None = None


class Shared(Generic[T]):
    """Loaded things by the config that describes them.

    Only what comes from known files is shared: of anything else nobody could tell whether it is still what it was.

    Args:
        limit: How many are kept; those that were used least recently go first.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from fusion_eval.models import LinearHead
        >>> shared = Shared(limit=8)
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "head.safetensors")
        ...     seen = []
        ...     for text in ("1", "1", "22"):
        ...         if not seen or seen[-1] != text:
        ...             _ = file.write_text(text)
        ...         seen.append(shared.get(LinearHead(str(file)), file.read_text).thing)
        >>> seen
        ['1', '1', '22']
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Kept[T]] = OrderedDict()

    def get(self, source: object, load: Callable[[], T]) -> Kept[T]:
        """What was loaded for an equal source, or is loaded now.

        Args:
            source: Describes the thing: a dataclass as `build` makes it.
            load: Loads it.
        """
        try:
            plain = to_config(source)
        except ConfigError:
            return Kept(load())
        config = json.dumps(plain, sort_keys=True)
        known = self._kept.pop(config, None)
        if known is None or known.stamp != _stamp(known.paths):
            known = self._load(config, [Path(text) for text in _strings(plain) if _exists(text)], load)
        if known.stamp is not None:
            self._kept[config] = known
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return known

    def _load(self, config: str, named: list[Path], load: Callable[[], T]) -> Kept[T]:
        thing = load()
        paths = (*named, *(thing.files() if isinstance(thing, FromFiles) else ()))
        return Kept(thing, config, paths, _stamp(paths))


def _stamp(paths: Sequence[Path]) -> Stamp | None:
    try:
        return stamp(paths) if paths else None
    except OSError:
        return None


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        yield from (text for key, value in config.items() if key != "_target_" for text in _strings(value))
    elif isinstance(config, list):
        yield from (text for value in config for text in _strings(value))


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero in it
        return False
