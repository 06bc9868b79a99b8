"""Equal bits whatever the number of threads, the order of keys and experts, and the process."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import merging_methods
import torch
from merging_methods import METHODS, Network, make_methods, models

from fusion_eval.data.digest import digest_content

LARGE = partial(Network, width=300, long=70_001)
"""So large that torch would share a tensor among threads."""


def digest(merged):
    return digest_content(sorted(merged.items()))


def backwards(mapping):
    return dict(reversed(mapping.items()))


def test_threads_and_order_change_no_bit(option):
    method = make_methods(architecture=LARGE)[option]
    base, experts = models(architecture=LARGE)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = digest(method(base, experts))
        torch.set_num_threads(4)
        assert digest(method(base, experts)) == alone
    finally:
        torch.set_num_threads(threads)
    assert digest(method(backwards(base), backwards({name: backwards(e) for name, e in experts.items()}))) == alone


def test_another_process_with_other_hashes_makes_the_same_bits():
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['digests']())"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(merging_methods.__file__).parent)}
    run = subprocess.run(
        [sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout.strip() == str(digests())


def digests():
    base, experts = models()
    return [digest(method(base, experts)) for method in METHODS.values()]
