"""The models that other packages merged and what they made of them (tests/oracles); tests run for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
from merging_methods import KINDS
from safetensors.torch import load_file

ORACLES = Path(__file__).parents[2] / "oracles"


@pytest.fixture(scope="session")
def oracle():
    """`oracle(file, model)`: the tensors of one model in a fixture file."""

    def read(file, model):
        tensors = load_file(ORACLES / file)
        return {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{model}/")}

    return read


@pytest.fixture(scope="session")
def base(oracle):
    return oracle("merging.safetensors", "base")


@pytest.fixture(scope="session")
def experts(oracle):
    return {name: oracle("merging.safetensors", name) for name in ("one", "two", "three")}


def pytest_generate_tests(metafunc):
    """A test that takes one of these names runs for every method of the kind; a new config is tested without a word."""
    for kind, names in KINDS.items():
        if kind in metafunc.fixturenames:
            metafunc.parametrize(kind, names)
