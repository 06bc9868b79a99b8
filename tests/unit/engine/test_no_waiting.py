"""A batch that lies on a GPU goes through without the CPU waiting for it: whatever task, in whatever precision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_cpu_never_waits_for_a_batch():
    program = Path(__file__).with_name("fake_gpu.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(program)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
