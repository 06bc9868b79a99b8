"""Running the command as a user does: in a process of its own, from an empty directory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fusion_eval(tmp_path: Path, environment: dict[str, str], forks: Forks) -> Run:
    """`fusion_eval(*arguments, ok=True)`: run in `tmp_path`, and check whether it succeeded."""

    def run(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        return checked(forks.run(["-m", "fusion_eval", *arguments], tmp_path, environment), ok)

    return run


@pytest.fixture
def started_alone(tmp_path: Path, environment: dict[str, str]) -> Run:
    """`fusion_eval`, in a process that is no fork: it imports for itself, with another seed of hashes."""

    def run(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fusion_eval", *arguments]
        settings = {"cwd": tmp_path, "env": environment, "timeout": 300}
        return checked(subprocess.run(command, **settings, capture_output=True, text=True, check=False), ok)

    return run


def checked(done: subprocess.CompletedProcess[str], ok: bool) -> subprocess.CompletedProcess[str]:
    assert (done.returncode == 0) is ok, f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def quick() -> tuple[str, ...]:
    """Settings for tests that are about the command and not about the numbers."""
    return ("limit=41", "bootstrap=0", "references=false")
