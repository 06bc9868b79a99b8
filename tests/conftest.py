"""No test reads or fills the result store of the person who runs it, or takes the sweep of another test for its own."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest


def pytest_configure(config):
    config.own_cache = tempfile.mkdtemp(prefix="fusion-eval-tests-")
    os.environ["FUSION_EVAL_CACHE"] = config.own_cache


def pytest_unconfigure(config):
    shutil.rmtree(config.own_cache, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_sweep_is_left():
    """A sweep in this process says where it is to those that it starts; commands of later tests are none of them."""
    yield
    os.environ.pop("FUSION_EVAL_SWEEP_DIR", None)
