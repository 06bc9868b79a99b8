from __future__ import annotations

import os
import stat
from functools import partial

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval import BaseTaskPool, DummyTaskPool, TaskPool, build, compose
from fusion_eval.data import Arrays, Embedded, ImageFolder, ImageTransform, Table
from fusion_eval.errors import ConfigError
from fusion_eval.models import LinearHead
from fusion_eval.tasks import CalibrationError, Classification, CrossEntropy, TopKAccuracy

# Whatever a YAML file can hold but an interpolation, `${`, a value that is still missing, `???`, and \x85, which YAML
# reads back as a line break.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), min_size=1, max_size=12).filter(
    lambda text: "${" not in text and text != "???"
)
NAMES = st.one_of(
    TEXT, st.sampled_from(["1e3", "null", "true", "0x1F", "12:30:00", "~", "2001-01-01", "a.b", "<<", "- x"])
)
SOURCES = st.one_of(
    st.builds(Embedded, st.sampled_from(["mnist", "scripts"]), st.sampled_from(["train", "val", "test"])),
    st.builds(Arrays, TEXT.map("{}x.npz".format), class_names=st.none() | st.just(("a", "b"))),
    st.builds(Table, TEXT.map("{}x.csv".format), TEXT),
    st.builds(ImageFolder, TEXT, st.none() | TEXT, st.none() | st.builds(ImageTransform, st.integers(8, 64))),
)
FACTORIES = st.sampled_from(
    [
        partial(MulticlassAccuracy, average="micro"),
        partial(TopKAccuracy, k=5),
        partial(CalibrationError, n_bins=15, norm="l1"),
        MulticlassF1Score,
        CrossEntropy,
    ]
)
METRICS = st.dictionaries(NAMES.filter(lambda name: not {"/", "."} & set(name)), FACTORIES, min_size=1, max_size=3)
HEADS = st.none() | TEXT | st.builds(LinearHead, TEXT)
TASKS = st.builds(Classification, SOURCES, METRICS, HEADS, st.none() | st.integers(1, 1000))
POOLS = st.builds(TaskPool, st.dictionaries(NAMES, TASKS, min_size=1, max_size=3)) | st.builds(
    DummyTaskPool, st.none() | TEXT
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@settings(max_examples=25, deadline=None)
@given(pool=POOLS)
def test_a_pool_survives_its_config(pool):
    again = BaseTaskPool.from_config(pool.to_config())
    assert again == pool
    assert again.to_config() == pool.to_config()


@settings(max_examples=25, deadline=None)
@given(pool=POOLS)
def test_a_pool_survives_its_yaml_file(pool, tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "pool.yaml"
    pool.to_yaml(path)
    again = BaseTaskPool.from_yaml(str(path))
    assert again == pool
    assert list(getattr(again, "tasks", ())) == list(getattr(pool, "tasks", ()))
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] == f"fusion_eval.taskpool.{type(pool).__name__}"


def test_a_config_is_plain_values_without_private_names():
    pool = TaskPool({"a": Classification(Embedded("mnist"), {"loss": CrossEntropy})})
    assert pool.to_config() == {
        "_target_": "fusion_eval.taskpool.TaskPool",
        "tasks": {
            "a": {
                "_target_": "fusion_eval.tasks.Classification",
                "data": {"_target_": "fusion_eval.data.Embedded", "name": "mnist", "split": "test"},
                "metrics": {"loss": {"_target_": "fusion_eval.tasks.CrossEntropy", "_partial_": True}},
                "head": None,
                "num_classes": None,
            }
        },
    }


def test_pools_differ_by_kind_tasks_and_every_argument():
    task = Classification(Embedded("mnist"), {"loss": CrossEntropy})
    pools = [
        TaskPool({"a": task}),
        TaskPool({"b": task}),
        TaskPool({"a": Classification(Embedded("mnist", "val"), {"loss": CrossEntropy})}),
        TaskPool({"a": Classification(Embedded("mnist"), {"loss": partial(CrossEntropy, num_classes=10)})}),
        DummyTaskPool(),
        DummyTaskPool("merged.safetensors"),
    ]
    for position, pool in enumerate(pools):
        assert [pool == other for other in pools] == [position == other for other in range(len(pools))]
    assert pools[0] != pools[0].to_config()


def test_the_defaults_list_of_a_file_names_options_of_our_groups(tmp_path):
    path = write(
        tmp_path / "pool.yaml",
        """
defaults:
  - /task@tasks.first: optdigits
  - /task@tasks.second: classification
  - override /dataset@tasks.second.data: arrays
  - _self_
_target_: fusion_eval.taskpool.TaskPool
tasks:
  second: {data: {inputs: digits.npz}, num_classes: 3}
""",
    )
    pool = TaskPool.from_yaml(path)
    assert pool.tasks["first"].data == Embedded("optdigits")
    assert pool.tasks["second"].data == Arrays("digits.npz")
    assert pool.tasks["second"].num_classes == 3
    assert list(pool.tasks["first"].metrics)[:2] == ["accuracy", "loss"]


def test_a_file_beside_it_is_never_read_instead(tmp_path):
    write(tmp_path / "pool.yaml", "_target_: fusion_eval.taskpool.DummyTaskPool")
    path = write(tmp_path / "pool.yml", "defaults: [{/taskpool@_here_: embedded}]")
    with pytest.raises(ConfigError, match=r"pool.yml: .* must end in .yaml"):
        BaseTaskPool.from_yaml(path)


def test_without_a_defaults_list_a_file_may_be_called_anything(tmp_path):
    path = write(tmp_path / "my pool, v1.0=b.yml", "_target_: fusion_eval.taskpool.DummyTaskPool")
    assert BaseTaskPool.from_yaml(path) == DummyTaskPool()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"needs `_target_` or `type`, found nothing"),
        ("hello", r"needs `_target_` or `type`, found hello"),
        ("tasks: {}\nbatch_size: 3", r"needs `_target_` or `type`, found tasks, batch_size"),
        ("5", "int"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "while parsing"),
        ("a: 1\na: 2", "found duplicate key a"),
        ("\tx: 1", "cannot start any token"),
        ("a: ${nowhere}", "Interpolation key 'nowhere' not found"),
        ("a: ${", "no viable alternative"),
        ("defaults: [/taskpool: embeded]", "Could not find 'taskpool/embeded'"),
        ("_target_: fusion_eval.taskpool.TaskPol", "_target_: cannot import .*did you mean 'TaskPool'"),
        ("_target_: fusion_eval.nowhere.Pool", "_target_: cannot import 'fusion_eval.nowhere.Pool'"),
        ("_target_: 5", "_target_: cannot import '5'"),
        ("_target_: ''", "_target_: cannot import ''"),
        ("_target_: fusion_eval.merging.Average", "`_target_` makes Average, not a BaseTaskPool"),
        ("_target_: fusion_eval.taskpool.TaskPool", "tasks: a value is required by fusion_eval.taskpool.TaskPool"),
        ("_target_: fusion_eval.taskpool.TaskPool\ntasks: ???", "tasks: a value is required$"),
        ("_target_: fusion_eval.taskpool.TaskPool\ntasks: {}", "tasks: a pool needs at least one"),
        ("_target_: fusion_eval.taskpool.TaskPool\ntasks: [1]", "tasks: a pool needs at least one, as a mapping"),
        ("_target_: fusion_eval.taskpool.TaskPool\ntasks: {a: null}", "tasks.a: expected a task such as .* found None"),
        (
            "_target_: fusion_eval.taskpool.DummyTaskPool\nsave_pth: x",
            "save_pth: unknown key; did you mean 'save_path'",
        ),
        (
            "_target_: fusion_eval.taskpool.TaskPool\ntasks:\n  a:\n    _target_: fusion_eval.tasks.Classification\n"
            "    metrics: {}\n    data: {_target_: fusion_eval.data.Embedded, nam: mnist}",
            "tasks.a.data.nam: unknown key; did you mean 'name'. Known: name, split",
        ),
        (
            "_target_: fusion_eval.taskpool.TaskPool\ntasks:\n  a:\n    _target_: fusion_eval.tasks.Classification\n"
            "    metrics: {}\n    data: {_target_: fusion_eval.data.Embedded, name: mnist}",
            "tasks.a: metrics: give at least one",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_field(tmp_path, text, message):
    path = write(tmp_path / "pool.yaml", text)
    with pytest.raises(ConfigError, match=message) as refusal:
        BaseTaskPool.from_yaml(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=f"{path}: .*utf-8"):
        BaseTaskPool.from_yaml(path)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="no such file"):
        BaseTaskPool.from_yaml(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path):
    path = write(tmp_path / "pool.yaml", "a: 1")
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ConfigError, match="Permission denied"):
        BaseTaskPool.from_yaml(path)


def test_a_pool_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "pool.yaml"
    DummyTaskPool().to_yaml(path)
    with pytest.raises(ConfigError, match="makes DummyTaskPool, not a TaskPool"):
        TaskPool.from_yaml(path)


@pytest.mark.parametrize(
    "factory",
    [
        lambda num_classes: CrossEntropy(),
        partial(lambda bins, num_classes: CalibrationError(num_classes, bins), 3),
        torch.zeros(3),
    ],
)
def test_a_part_that_has_no_name_cannot_be_written(factory, tmp_path):
    if isinstance(factory, torch.Tensor):
        factory = partial(CrossEntropy, num_classes=factory)
    pool = TaskPool({"a": Classification(Embedded("mnist"), {"loss": factory})})
    with pytest.raises(ConfigError, match="cannot be written as YAML"):
        pool.to_yaml(tmp_path / "pool.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_pool_needs_evaluate():
    with pytest.raises(TypeError, match=r"abstract method '?evaluate"):
        BaseTaskPool()


def test_tasks_in_a_file_take_text_tower_and_preprocessing_from_the_model_pool(tmp_path):
    path = write(
        tmp_path / "pool.yaml",
        """
defaults:
  - /task@tasks.dtd: clip/dtd
  - _self_
_target_: fusion_eval.taskpool.TaskPool
""",
    )
    pool = build(compose(["taskpool=file", f"taskpool.path={path}", "modelpool=clip_vit_b16_ta8"]).taskpool)
    dtd = pool.tasks["dtd"]
    assert dtd.head.text_tower.checkpoint == dtd.data.transform.path == "openai/clip-vit-base-patch16"
    assert TaskPool.from_yaml(path, {"modelpool.base": "openai/clip-vit-base-patch16"}) == pool
    with pytest.raises(ConfigError, match=r"pool.yaml: \S*data.transform.path.*: a value is required"):
        TaskPool.from_yaml(path)
