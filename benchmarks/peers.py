"""The tools we are compared with, in a virtual environment of their own that runs them on our torch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MERGING", "TASK_POOL", "install_peers"]

MERGING = ("mergekit==0.1.5", "fusion-bench==0.2.33")
TASK_POOL = ("fusion-bench==0.2.33", "transformers==4.57.3")
"""Its task pools do not run with transformers 5."""

_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def install_peers(cache: Path, peers: Sequence[str] = MERGING, name: str = "peers") -> Path:
    """Make the environment, unless it is there.

    It sees the packages of the running Python, so that all tools compute with the same torch, which is not downloaded
    again, and holds only what the peers need beyond them (about 120 MB).

    Args:
        cache: The directory that holds the environment, and that git is told to ignore.
        peers: What is installed.
        name: Of the environment.

    Returns:
        Its Python.
    """
    home = cache / name
    python, installed = home / "bin" / "python", home / "installed.txt"
    if installed.exists() and installed.read_text() == "\n".join(peers):
        return python
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    venv.create(home, clear=True, with_pip=True)
    ours = [path for path in sys.path if path.endswith("-packages")]
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (theirs / "ours.pth").write_text("".join(f"{path}\n" for path in ours))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lines = _CONSTRAINTS.read_text().splitlines()
    if peers == TASK_POOL:  # it needs older versions of much of what we have
        lines = [line for line in lines if line.startswith("torch==")]
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(lines))
    subprocess.run([*pip, "-c", str(constraints), *peers], check=True, stdout=sys.stderr)
    installed.write_text("\n".join(peers))
    return python
