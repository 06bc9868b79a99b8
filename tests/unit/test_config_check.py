"""Scalars where something with parts is expected; targets and keys are tested through `build` in test_config.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from fusion_eval.config_check import check_node
from fusion_eval.data import DataCache
from fusion_eval.errors import ConfigError


class Measures(Protocol):
    def measure(self) -> float: ...


@dataclass
class Parent:
    """What a part inherits counts too."""

    experts: Mapping[str, float] | None = None


@dataclass
class Part(Parent):
    """One field of each kind."""

    cache: DataCache | None = None
    made: Callable[[], Any] | None = None
    sizes: Sequence[int] | float = 1
    names: Sequence[str] = ()
    path: Path | None = None
    anything: Any = None
    measures: Measures | None = None
    unknown: Elsewhere | None = None  # type: ignore[name-defined]  # noqa: F821


def check(**given: Any) -> None:
    check_node({"_target_": f"{__name__}.Part", **given}, "part")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experts": 3}, "part.experts: expected a mapping, found 3"),
        ({"cache": "off"}, "part.cache: expected fusion_eval.data.DataCache with the keys mode, path, max_gb, "
                           "found 'off'"),
        ({"made": "vit"}, "part.made: expected something to call, found 'vit'"),
        ({"names": "label"}, "part.names: expected a list, found 'label'"),
        ({"path": 3}, "part.path: expected text, found 3; in quotes it is one: '\"3\"'"),
    ],
)  # fmt: skip
def test_a_scalar_for_what_has_parts_is_refused(given, message):
    with pytest.raises(ConfigError) as caught:
        check(**given)
    assert str(caught.value) == message


def test_what_may_be_meant_is_left_to_the_constructor():
    check(experts={"a": 1.0}, cache=None, sizes=2, names=["a"], path="somewhere")
    check(sizes="all", anything=3, measures="a scalar that measures", unknown="whatever it is")
    check(cache={"_target_": "fusion_eval.data.DataCache"}, made={"_target_": "builtins.dict", "_partial_": True})


def test_it_is_found_at_any_depth():
    with pytest.raises(ConfigError, match=r"^pool\.parts\.1\.names: expected a list"):
        check_node({"parts": [{}, {"_target_": f"{__name__}.Part", "names": "label"}]}, "pool")
