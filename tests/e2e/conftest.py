"""Running the command as a user does: in a process of its own, from an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a result store of the test's own, without what a parent pytest or shell may have set.

    Idle OpenMP threads must not spin on a busy machine.
    """
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "HYDRA", "FUSION_EVAL"))}
    return {**keep, "FUSION_EVAL_CACHE": str(tmp_path / "cache"), "OMP_WAIT_POLICY": "passive", "COLUMNS": "100"}


@pytest.fixture
def fusion_eval(tmp_path: Path, environment: dict[str, str]) -> Run:
    """`fusion_eval(*arguments, ok=True)`: run in `tmp_path`, and check whether it succeeded."""

    def run(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fusion_eval", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.returncode == 0) is ok, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def quick() -> tuple[str, ...]:
    """Settings for tests that are about the command and not about the numbers."""
    return ("limit=41", "bootstrap=0", "references=false")
