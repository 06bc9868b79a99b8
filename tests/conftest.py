"""No test reads or fills the result store of the person who runs it."""

from __future__ import annotations

import os
import shutil
import tempfile


def pytest_configure(config):
    config.own_cache = tempfile.mkdtemp(prefix="fusion-eval-tests-")
    os.environ["FUSION_EVAL_CACHE"] = config.own_cache


def pytest_unconfigure(config):
    shutil.rmtree(config.own_cache, ignore_errors=True)
