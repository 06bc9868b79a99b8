"""Memory that is freed stays with the process: the pages of what a layer leaves are not taken anew by the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told what to keep")

PROGRAM = """
import resource
import torch
from fusion_eval.allocator import keep_freed_memory

def pages(turns):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(turns):
        activations = [torch.ones(4_000_000) for _ in range(4)]  # 16 MB each
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
pages(2)
print(pages(10))
"""


def pages(settings: str = "") -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment |= dict([settings.split("=")] if settings else [])
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_activations_take_their_pages_once():
    assert pages() < 20_000  # a turn takes 15,625


def test_what_the_environment_says_is_left_as_it_is():
    assert pages("MALLOC_MMAP_THRESHOLD_=65536") > 100_000
