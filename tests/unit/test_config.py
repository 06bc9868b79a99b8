from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fusion_eval import Expert, Runner, Ties, build, compose
from fusion_eval.config import compose_file, compose_option, recorded, to_config
from fusion_eval.data import Arrays, ImageFolder, ImageTransform
from fusion_eval.errors import ConfigError

TIES = "fusion_eval.merging.Ties"


@dataclass(frozen=True)
class Local:
    """A dataclass of this file: importable by name only where pytest has put the module into `sys.modules`."""

    value: int = 1


# build


def test_a_node_becomes_the_object_it_describes():
    assert build({"_target_": TIES, "density": 0.3}) == Ties(density=0.3)


def test_nodes_are_built_depth_first_and_stay_plain_python():
    config = {
        "_target_": "fusion_eval.data.ImageFolder",
        "root": "photos",
        "transform": {
            "_target_": "fusion_eval.data.ImageTransform",
            "size": 8,
            "mean": [0.5, 0.5, 0.5],
            "std": [1, 1, 1],
        },
    }
    source = build(config)
    assert source.transform.size == 8
    assert type(source.transform.mean) in (list, tuple)
    partial = build({"_target_": "builtins.dict", "a": {"b": [1, 2]}})
    assert type(partial["a"]) is dict
    assert type(partial["a"]["b"]) is list


def test_interpolations_reach_the_whole_config_they_are_in():
    config = OmegaConf.create({"share": 0.25, "model": {"_target_": TIES, "density": "${share}"}})
    assert build(config.model) == Ties(density=0.25)


def test_a_partial_waits_for_what_is_missing():
    built = build({"_target_": "fusion_eval.merging.Expert", "_partial_": True})
    assert built("mnist") == Expert("mnist")


def test_positional_arguments_count_as_given():
    assert build({"_target_": "fusion_eval.merging.Expert", "_args_": ["mnist"]}) == Expert("mnist")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"_target_": TIES, "densty": 0.3},
            "^model.densty: unknown key; did you mean 'density'. Known: density, scaling, trim, weights$",
        ),
        ({"_target_": "fusion_eval.merging.Tise"}, "^model._target_: cannot import .*did you mean 'Ties'"),
        ({"_target_": "nowhere.Ties"}, "^model._target_: cannot import 'nowhere.Ties': .*nowhere"),
        ({"_target_": "fusion_eval.merging.Expert"}, "^model.name: a value is required by fusion_eval.merging.Expert$"),
        (
            {"_target_": "fusion_eval.merging.Expert", "name": "???"},
            "^model.name: a value is required, for example model.name=",
        ),
        ({"_target_": TIES, "density": "${nowhere}"}, "^model: Interpolation key 'nowhere' not found"),
        ({"_target_": TIES, "density": 7}, "^model: .*density.*7"),
        ({"_target_": "builtins.dict", "a": [{"_target_": TIES, "densty": 1}]}, "^model.a.0.densty: unknown key"),
        ({"_target_": "builtins.dict", "a": {"_target_": TIES, "density": 7}}, "^model.a: .*density.*7"),
        ({"_target_": "builtins.eval", "_args_": ["1"]}, "^model"),
    ],
)
def test_a_wrong_node_is_refused_by_its_key(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config, "model")


def test_a_typo_is_refused_before_anything_is_built(tmp_path):
    config = {
        "_target_": "builtins.dict",
        "first": {
            "_target_": "pathlib.Path.mkdir",
            "self": {"_target_": "pathlib.Path", "_args_": [str(tmp_path / "x")]},
        },
        "second": {"_target_": TIES, "densty": 0.1},
    }
    with pytest.raises(ConfigError, match="densty"):
        build(config)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("where", [True, False])
def test_a_missing_value_is_named_by_its_whole_key_once(where):
    cfg = compose(["model=expert"])
    with pytest.raises(ConfigError, match=r"^model.name: a value is required, for example model.name=\.\.\.$"):
        build(cfg.model, "model" if where else "")


def test_every_missing_value_is_named():
    cfg = compose(["dataset@taskpool.tasks.mnist.data=table"])
    key = "taskpool.tasks.mnist.data"
    with pytest.raises(ConfigError, match=f"^{key}.path, {key}.target: a value is required"):
        build(cfg.taskpool)


# to_config


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "text",
        [1, [2, "x"]],
        {"a": {"b": None}},
        Ties(density=0.5),
        ImageFolder("photos", transform=ImageTransform(32)),
        Runner(limit=5),
        {"nested": [Expert("mnist")]},
    ],
)
def test_what_is_described_is_built_again(value):
    described = to_config(value)
    built = build({"_target_": "builtins.dict", "value": described})["value"]
    assert built == value
    assert to_config(built) == described


@pytest.mark.parametrize(
    ("value", "config"),
    [
        (Path("a/b"), "a/b"),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (nn.Linear, {"_target_": "torch.nn.Linear", "_partial_": True}),
        (
            functools.partial(nn.Linear, 3, bias=False),
            {"_target_": "torch.nn.Linear", "_partial_": True, "_args_": [3], "bias": False},
        ),
        (torch.nn.functional.relu, {"_target_": "torch.nn.functional.relu", "_partial_": True}),
        (Arrays, {"_target_": "fusion_eval.data.Arrays", "_partial_": True}),
    ],
)
def test_what_has_another_form_in_yaml(value, config):
    assert to_config(value) == config


def test_a_described_callable_is_built_as_the_same_callable():
    built = build({"_target_": "builtins.dict", "layer": to_config(functools.partial(nn.Linear, 3, bias=False))})[
        "layer"
    ]
    assert (built.func, built.args, built.keywords) == (nn.Linear, (3,), {"bias": False})


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        functools.partial(lambda: 1),
        nn.Linear(1, 1),
        torch.zeros(1),
        np.float32(0.5),
        {1, 2},
        b"bytes",
        [object()],
        {"deep": {"er": object()}},
        "text".upper,
    ],
)
def test_what_has_no_description_is_refused(value):
    with pytest.raises(ConfigError, match="cannot be written as YAML"):
        to_config(value)


def test_a_class_that_no_import_finds_is_refused():
    def make():
        @dataclass
        class Hidden:
            value: int = 1

        return Hidden()

    with pytest.raises(ConfigError, match=r"Hidden.*not importable by name"):
        to_config(make())
    if __name__ not in sys.modules:
        with pytest.raises(ConfigError, match="not importable by name"):
            to_config(Local())


# compose


def test_an_option_is_composed_alone_with_what_it_includes():
    assert list(compose_option("metrics", "classification")) == [
        name
        for option in ("accuracy", "loss", "top5", "macro_f1", "balanced_accuracy", "ece")
        for name in compose_option("metrics", option)
    ]


@pytest.mark.parametrize(
    ("group", "option", "message"),
    [
        ("dataset", "mnits", "dataset: no option 'mnits'; did you mean 'mnist'.*optdigits"),
        ("datasets", "mnist", "datasets: no option 'mnist'; Known: none"),
        ("dataset", "", "dataset: no option ''"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(group, option, message):
    with pytest.raises(ConfigError, match=message):
        compose_option(group, option)


def test_composing_leaves_no_trace_and_may_be_nested(tmp_path):
    from hydra.core.global_hydra import GlobalHydra

    path = tmp_path / "pool.yaml"
    path.write_text("defaults: [{/dataset@first: mnist}, _self_]\nnumber: 3\n")
    with_defaults = compose_file(path)
    assert with_defaults == {"first": compose_option("dataset", "mnist"), "number": 3}
    compose(["model=base"])
    assert compose_file(path) == with_defaults
    assert not GlobalHydra.instance().is_initialized()


def test_another_packages_groups_are_announced_by_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "other_package/conf/model").mkdir(parents=True)
    (tmp_path / "other_package/conf/model/mine.yaml").write_text("_target_: fusion_eval.merging.Base\n")
    for folder in ("other_package", "other_package/conf"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "other_package-1.0.dist-info").mkdir()
    (tmp_path / "other_package-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n"
    )
    (tmp_path / "other_package-1.0.dist-info/entry_points.txt").write_text(
        "[fusion_eval.conf]\nother = other_package.conf\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert compose(["model=mine"]).model == {"_target_": "fusion_eval.merging.Base"}


@pytest.mark.parametrize(
    ("overrides", "tasks", "models"),
    [
        (["model=fisher"], True, True),
        (["modelpool.base=other"], True, True),
        (["+modelpool@calibration.models=embedded", "modelpool.base=other"], True, False),
        (["calibration.tasks={}"], False, True),
    ],
)
def test_tasks_and_models_of_calibration_are_recorded_where_they_are_others(overrides, tasks, models):
    found = recorded(compose(overrides))["calibration"]
    assert (found["tasks"] == "${taskpool.tasks}", found["models"] == "${modelpool}") == (tasks, models)


def test_a_word_for_a_whole_section_is_refused():
    with pytest.raises(ConfigError, match=r"^runner: expected a mapping with _target_, found 'off'$"):
        build("off", "runner")
    with pytest.raises(ConfigError, match=r"^calibration: expected a mapping with _target_, found 'off'$"):
        recorded(compose(["calibration=off"]))
