"""No test reads or fills the result store of the person who runs it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Forks
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # how long an example takes says how busy the machine is


def pytest_configure(config):
    config.own_cache = tempfile.mkdtemp(prefix="fusion-eval-tests-")
    os.environ["FUSION_EVAL_CACHE"] = config.own_cache


def pytest_unconfigure(config):
    shutil.rmtree(config.own_cache, ignore_errors=True)


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """Without what a parent pytest or shell may have set; idle OpenMP threads must not spin on a busy machine."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "HYDRA", "FUSION_EVAL"))}
    return {**keep, "OMP_WAIT_POLICY": "passive"}


@pytest.fixture(scope="session")
def forks(clean_environment: dict[str, str]) -> Iterator[Forks]:
    """Programs that start at once; what they share, and what not, is said in tests/support/forks.py."""
    forks = Forks(clean_environment)
    yield forks
    forks.close()


@pytest.fixture
def environment(tmp_path: Path, clean_environment: dict[str, str]) -> dict[str, str]:
    """Of a command, with a result store of the test's own."""
    return {**clean_environment, "FUSION_EVAL_CACHE": str(tmp_path / "cache"), "COLUMNS": "100"}
