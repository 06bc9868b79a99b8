"""The tools we are compared with, in a virtual environment of their own that runs them on our torch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["PEERS", "install_peers"]

PEERS = ("mergekit==0.1.5", "fusion-bench==0.2.33")
_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def install_peers(cache: Path) -> Path:
    """Make the environment, unless it is there.

    It sees the packages of the running Python, so that all tools compute with the same torch, which is not downloaded
    again, and holds only what the peers need beyond them (about 120 MB).

    Args:
        cache: The directory that holds the environment, and that git is told to ignore.

    Returns:
        Its Python.
    """
    home = cache / "peers"
    python, installed = home / "bin" / "python", home / "installed.txt"
    if installed.exists() and installed.read_text() == "\n".join(PEERS):
        return python
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    venv.create(home, clear=True, with_pip=True)
    ours = sysconfig.get_path("purelib")
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (theirs / "ours.pth").write_text(ours + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(_CONSTRAINTS), *PEERS], check=True, stdout=sys.stderr)
    installed.write_text("\n".join(PEERS))
    return python
