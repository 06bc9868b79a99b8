"""The YAML of the groups `model` and `modelpool` builds the objects it names, with the defaults of the classes."""

from importlib.resources import files

import pytest
import yaml

from fusion_eval.config import build
from fusion_eval.merging import Average, Base, Expert, TaskArithmetic, Ties
from fusion_eval.models import Checkpoint, LinearHead, ModelPool

CONF = files("fusion_eval.conf")


def read(group, name):
    return yaml.safe_load(CONF.joinpath(group, f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("base", {}, Base()),
        ("average", {}, Average()),
        ("task_arithmetic", {}, TaskArithmetic()),
        ("ties", {}, Ties()),
        ("expert", {"name": "mnist"}, Expert("mnist")),
        ("checkpoint", {"path": "merged.safetensors"}, Checkpoint("merged.safetensors")),
    ],
)
def test_model(name, given, expected):
    config = read("model", name)
    assert {field for field, value in config.items() if value == "???"} == given.keys()
    assert build(config | given) == expected


def test_embedded_pool():
    pool = build(read("modelpool", "embedded"))
    assert isinstance(pool, ModelPool)
    assert pool.experts.keys() == pool.heads.keys() == {"optdigits", "mnist", "scripts", "textures"}
    assert all(isinstance(head, LinearHead) for head in pool.heads.values())
