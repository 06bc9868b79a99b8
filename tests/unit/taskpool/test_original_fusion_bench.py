"""FusionBench's first form; the pools are like those it ships (0.2.33, fusion_bench_config/taskpool)."""

from __future__ import annotations

import copy
import logging

import pytest
import yaml

from fusion_eval import TaskPool, build, compose
from fusion_eval.config import compose_option
from fusion_eval.data import NYUv2
from fusion_eval.errors import ConfigError
from fusion_eval.tasks import Classification, DepthEstimation, Segmentation, SurfaceNormals

CLIP = yaml.safe_load("""
type: clip_vit_classification
name: clip-vit-base-patch16
dataset_type: huggingface_image_classification
tasks:
  - {name: cars, dataset: {name: tanganke/stanford_cars, split: test}}
  - name: svhn
    dataset:
      type: instantiate
      name: svhn
      object: {_target_: datasets.load_dataset, _args_: [svhn, cropped_digits], split: test}
  - {name: mnist, dataset: {name: mnist, split: train}}
  - {name: pets, dataset: {name: oxford-iiit-pet, path: my/pets, kwargs: {revision: abc}}}
  - {name: blurred, dataset: {name: tanganke/eurosat, split: motion_blur}, batch_size: 8}
clip_model: openai/clip-vit-base-patch16
batch_size: 128
num_workers: 16
""")

SMALL = {**CLIP, "tasks": [CLIP["tasks"][1], CLIP["tasks"][3]]}

NYU = yaml.safe_load("""
type: NYUv2TaskPool
data_dir: .cache
tasks: [segmentation, depth, normal]
batch_size: 16
num_workers: 4
""")


def with_(pool, path, value):
    """The pool with one value replaced, or, if that is `...`, removed."""
    config = copy.deepcopy(pool)
    *parents, key = path
    node = config
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[key]
    else:
        node[key] = value
    return config


def own_task(name, checkpoint):
    option = compose_option("task/clip", name)
    option["data"]["transform"]["path"] = option["head"]["text_tower"]["checkpoint"] = checkpoint
    return build(option)


def test_tasks_of_clip_become_zero_shot_tasks_of_the_same_class_names():
    tasks = TaskPool.from_config(CLIP).tasks
    assert list(tasks) == ["cars", "svhn", "mnist", "pets", "blurred"]
    assert {type(task) for task in tasks.values()} == {Classification}
    assert [task.head.classes for task in tasks.values()] == [
        "stanford_cars",
        "svhn",
        "mnist",
        "oxford_iiit_pet",
        "eurosat",
    ]
    assert {task.head.text_tower.checkpoint for task in tasks.values()} == {"openai/clip-vit-base-patch16"}
    assert {task.data.transform.path for task in tasks.values()} == {"openai/clip-vit-base-patch16"}
    assert [task.num_classes for task in tasks.values()] == [196, 10, 10, 37, 10]
    first = own_task("stanford_cars", "openai/clip-vit-base-patch16")
    assert tasks["cars"].settings() == first.settings()
    assert tasks["cars"].data == first.data
    assert tasks["cars"].head == first.head


def test_data_sets_are_those_that_are_named():
    tasks = TaskPool.from_config(CLIP).tasks
    data = {name: (task.data.path, task.data.name, task.data.split) for name, task in tasks.items()}
    assert data == {
        "cars": ("tanganke/stanford_cars", None, "test"),
        "svhn": ("ufldl-stanford/svhn", "cropped_digits", "test"),
        "mnist": ("ylecun/mnist", None, "train"),
        "pets": ("my/pets", None, "test"),
        "blurred": ("tanganke/eurosat", None, "motion_blur"),
    }
    assert tasks["pets"].data.revision == "abc"
    assert tasks["pets"].data.expected_size is None  # it may be any data
    assert tasks["cars"].data.expected_size is not None


def test_a_directory_is_a_path_even_without_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    data = TaskPool.from_config(CLIP).tasks["mnist"].data
    assert (data.path, data.expected_size) == ("mnist", None)


def test_tasks_of_nyuv2_become_dense_tasks():
    tasks = TaskPool.from_config(NYU).tasks
    assert {name: type(task) for name, task in tasks.items()} == {
        "segmentation": Segmentation,
        "depth": DepthEstimation,
        "normal": SurfaceNormals,
    }
    assert {name: task.data for name, task in tasks.items()} == {
        name: NYUv2(".cache/nyuv2", "val", name) for name in ("segmentation", "depth", "normal")
    }
    assert {name: task.model_key("any") for name, task in tasks.items()} == {name: name for name in tasks}


@pytest.mark.parametrize("pool", [CLIP, NYU], ids=["clip", "nyuv2"])
def test_they_are_written_in_the_hydra_form_and_stay_the_same_pool(pool, tmp_path):
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(pool))
    read = TaskPool.from_yaml(tmp_path / "old.yaml")
    read.to_yaml(tmp_path / "new.yaml")
    assert "type" not in yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert TaskPool.from_yaml(tmp_path / "new.yaml") == read
    assert build(compose(["taskpool=file", f"taskpool.path={tmp_path / 'old.yaml'}"]).taskpool) == read


def test_a_file_may_refer_to_the_config_that_was_around_it_for_a_setting_of_the_run(tmp_path):
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(SMALL) + "fast_dev_run: ${fast_dev_run}\n")
    assert TaskPool.from_yaml(tmp_path / "pool.yaml") == TaskPool.from_config(SMALL)


def test_settings_of_the_run_are_left_to_it(caplog):
    with caplog.at_level(logging.INFO, "fusion_eval"):
        TaskPool.from_config(CLIP, "old.yaml")
    assert caplog.messages == [
        "old.yaml: batch_size=128 and num_workers=16 are settings of the run: give them on the command line"
    ]


@pytest.mark.parametrize(
    ("pool", "path", "value", "message"),
    [
        (SMALL, ["type"], "clip_vit_clasification", "did you mean 'clip_vit_classification'"),
        (SMALL, ["clip_model"], ..., "'clip_model' is missing; required: type, tasks, clip_model"),
        (SMALL, ["clip_model"], 7, "clip_model: expected a string, found 7"),
        (SMALL, ["clip_modle"], "x", "unknown key 'clip_modle'; did you mean 'clip_model'"),
        (SMALL, ["tasks"], {"a": 1}, "tasks: expected a list of mappings with name, dataset"),
        (SMALL, ["tasks", 1], "svhn", r"tasks\[1\]: expected a mapping with name, dataset, found 'svhn'"),
        (SMALL, ["tasks", 0, "name"], "pets", r"tasks\[1\].name: 'pets' names an earlier task too"),
        (SMALL, ["tasks", 0, "metric"], "loss", r"tasks\[0\]: unknown key 'metric'"),
        (SMALL, ["tasks", 0, "dataset"], "mnist", r"tasks\[0\].dataset: expected a mapping with name, found 'mnist'"),
        (SMALL, ["tasks", 0, "dataset", "name"], ..., r"tasks\[0\].dataset: 'name' is missing"),
        (SMALL, ["tasks", 0, "dataset", "name"], 7, r"tasks\[0\].dataset.name: expected a string, found 7"),
        (SMALL, ["tasks", 0, "dataset", "name"], "tanganke/eurosta", r"tasks\[0\].dataset.name: .* mean 'eurosat'"),
        (SMALL, ["dataset_type"], "folder", r"tasks\[1\].dataset.type: unknown type 'folder'; Known: hugging"),
        (SMALL, ["dataset_type"], ..., r"tasks\[1\].dataset.type: unknown type None"),
        (SMALL, ["tasks", 1, "dataset", "kwargs"], [1], r"tasks\[1\].dataset.kwargs: expected a mapping, found \[1\]"),
        (SMALL, ["tasks", 1, "dataset", "kwargs"], {"nam": 1}, r"kwargs: unknown key 'nam'; did you mean 'name'"),
        (SMALL, ["tasks", 0, "dataset", "object"], ..., r"tasks\[0\].dataset.object: expected a mapping with _target_"),
        (SMALL, ["tasks", 0, "dataset", "object", "_target_"], "os.system", "load_dataset, found 'os.system'"),
        (SMALL, ["tasks", 0, "dataset", "object", "_args_"], [], r"dataset.object: 'path' is missing"),
        (SMALL, ["tasks", 0, "dataset", "object", "streaming"], True, "dataset.object: unknown key 'streaming'"),
        (NYU, ["data_dir"], ..., "'data_dir' is missing; required: type, tasks, data_dir"),
        (NYU, ["data_dir"], ["a"], r"data_dir: expected a string, found \['a'\]"),
        (NYU, ["data_dri"], "x", "unknown key 'data_dri'; did you mean 'data_dir'"),
        (NYU, ["tasks"], "depth", "tasks: expected a list of segmentation, depth and normal, found 'depth'"),
        (NYU, ["tasks"], [{"name": "depth"}], "tasks: expected a list of segmentation, depth and normal"),
        (NYU, ["tasks", 1], "noise", r"tasks\[1\]: task/nyuv2: no option 'noise'; Known: depth, normal, segmentation"),
        (NYU, ["tasks", 1], "normal", r"tasks\[2\]: 'normal' is in the list already"),
    ],
)
def test_a_mistake_is_refused_by_file_and_field(pool, path, value, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        TaskPool.from_config(with_(pool, path, value), source="pool.yaml")
    assert str(refusal.value).startswith("pool.yaml: ")


CORRUPTED = """
type: clip_vit_classification
corruption: ${corruption}
dataset_type: huggingface_image_classification
tasks:
  - {name: gtsrb, dataset: {name: tanganke/gtsrb, split: "${taskpool.corruption}"}}
clip_model: openai/clip-vit-base-patch32
fast_dev_run: ${fast_dev_run}
"""
"""As FusionBench ships it, with one of four tasks."""


def test_a_corruption_is_taken_from_the_command_line(tmp_path):
    file = tmp_path / "pool.yaml"
    file.write_text(CORRUPTED)
    cfg = compose(["taskpool=file", f"taskpool.path={file}", "+corruption=motion_blur"])
    assert build(cfg.taskpool).tasks["gtsrb"].data.split == "motion_blur"
    with pytest.raises(ConfigError, match=r"pool.yaml: corruption: \$\{corruption\} is nothing in the file; give it"):
        build(compose(["taskpool=file", f"taskpool.path={file}"]).taskpool)
