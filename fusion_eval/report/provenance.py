"""Where a report comes from: configuration, command, code, versions and hardware."""

from __future__ import annotations

import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

_DISTRIBUTIONS = ("torch", "lightning", "torchmetrics", "hydra-core", "numpy")


def provenance(config: dict[str, Any]) -> dict[str, Any]:
    """Describe this run, in values that JSON can hold.

    Args:
        config: The resolved configuration.

    Returns:
        * "config": as given; what JSON does not know, such as a path, as text
        * "command": the command line, quoted for a shell
        * "started": now, UTC, ISO 8601
        * "versions": of fusion-eval, Python and the packages that decide on numbers; None where not installed
        * "git": "fusion_eval" and "working_directory" to commit and dirtiness of the checkout they are in; None where
          they are in none, or where both are in the same one for the latter
        * "hardware": platform, CPU, cores this process may use, and the GPUs if PyTorch is loaded

    Example:
        >>> provenance({"seed": 0})["config"]
        {'seed': 0}
    """
    return {
        "config": json.loads(json.dumps(config, default=str)),
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(_versions()),
        "git": {"fusion_eval": _package()[1], "working_directory": _working_directory(Path.cwd())},
        "hardware": {"platform": platform.platform(), "cpu": _cpu(), "cores": _cores(), "gpus": _gpus()},
    }


@functools.cache
def _package() -> tuple[str | None, dict[str, Any] | None]:
    """Root and state of the checkout that this package is in, when it is first asked for.

    What is edited or committed later is not what this process runs.
    """
    package = Path(__file__).parents[1]
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None  # a venv may lie in a checkout
    root = _git(package, "rev-parse", "--show-toplevel") if tracked else None
    return root, _checkout(root)


@functools.cache
def _working_directory(directory: Path) -> dict[str, Any] | None:
    """State of the checkout that a directory is in, when it is first asked for; None if that is the package's."""
    root = _git(directory, "rev-parse", "--show-toplevel")
    return _checkout(None if root == _package()[0] else root)


@functools.cache
def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **{name: _version(name) for name in ("fusion-eval", *_DISTRIBUTIONS)}}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of a git command; None where it fails, or git is missing or slow."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=2,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # look only: others may be committing
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _checkout(root: str | None) -> dict[str, Any] | None:
    if root is None or (commit := _git(Path(root), "rev-parse", "--verify", "HEAD")) is None:
        return None
    changes = _git(Path(root), "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
