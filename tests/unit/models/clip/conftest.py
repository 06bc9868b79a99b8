from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ORACLE = Path(__file__).parents[3] / "oracles/clip"


@pytest.fixture(scope="session")
def oracle() -> Path:
    """What tests/oracles/make_clip_oracles.py wrote."""
    return ORACLE


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A CLIPModel of one's own to change."""
    return Path(shutil.copytree(ORACLE / "base", tmp_path / "clip"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FUSION_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
