from __future__ import annotations

import copy

import pytest
import yaml

from fusion_eval import TaskPool
from fusion_eval.config import compose_option
from fusion_eval.data import Arrays, Embedded, Table
from fusion_eval.errors import ConfigError
from fusion_eval.models import LinearHead

POOL = yaml.safe_load("""
type: classification
dataset_type: embedded
tasks:
  - {name: first, dataset: optdigits, metric: accuracy}
  - {name: second, dataset: {name: mnist, split: val}, metric: [accuracy, loss]}
  - {name: third, dataset: {path: t.csv, target: y}, dataset_type: table, metric: classification, head: mnist}
  - name: fourth
    dataset: {_target_: fusion_eval.data.Arrays, inputs: a.npz}
    metric: {_target_: torchmetrics.classification.MulticlassF1Score, average: micro}
    head: {_target_: fusion_eval.models.LinearHead, path: h.safetensors}
""")


def with_(path, value):
    """The pool above with one value replaced, or, if that is `...`, removed."""
    config = copy.deepcopy(POOL)
    *parents, key = path
    node = config
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[key]
    else:
        node[key] = value
    return config


def test_the_original_form_becomes_the_pool_it_describes():
    tasks = TaskPool.from_config(POOL).tasks
    assert list(tasks) == ["first", "second", "third", "fourth"]
    assert [task.data for task in tasks.values()] == [
        Embedded("optdigits"),
        Embedded("mnist", "val"),
        Table("t.csv", "y"),
        Arrays("a.npz"),
    ]
    assert [list(task.metrics) for task in tasks.values()] == [
        ["accuracy"],
        ["accuracy", "loss"],
        list(compose_option("metrics", "classification")),
        ["MulticlassF1Score"],
    ]
    assert tasks["fourth"].metrics["MulticlassF1Score"](num_classes=3).average == "micro"
    assert [task.head for task in tasks.values()] == ["optdigits", None, "mnist", LinearHead("h.safetensors")]


def test_it_is_written_in_the_hydra_form_and_stays_the_same_pool(tmp_path):
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(POOL))
    pool = TaskPool.from_yaml(tmp_path / "old.yaml")
    pool.to_yaml(tmp_path / "new.yaml")
    assert "type" not in yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert TaskPool.from_yaml(tmp_path / "new.yaml") == pool


def test_names_need_no_dataset_type():
    config = {"type": "classification", "tasks": [{"name": "a", "dataset": "mnist", "metric": "loss"}]}
    assert TaskPool.from_config(config).tasks["a"].data == Embedded("mnist")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["type"], "clasification", r"type: unknown type 'clasification'; did you mean 'classification'"),
        (["type"], ["classification"], r"type: unknown type \['classification'\]"),
        (["type"], {"a": 1}, r"type: unknown type \{'a': 1\}"),
        (["type"], None, "'type' is missing; required: type, tasks"),
        (["type"], ..., "'type' is missing"),
        (["tasks"], ..., "'tasks' is missing"),
        (["tasks"], [], r"tasks: expected a list of mappings with name, dataset, metric, found \[\]"),
        (["tasks"], {"a": 1}, r"tasks: expected a list of mappings .* found \{'a': 1\}"),
        (["tasks", 1], "mnist", r"tasks\[1\]: expected a mapping with name, dataset, metric, found 'mnist'"),
        (["task"], [], "unknown key 'task'; did you mean 'tasks'"),
        (["tasks", 0, "metrics"], "loss", r"tasks\[0\]: unknown key 'metrics'; did you mean 'metric'"),
        (["tasks", 0, "name"], ..., r"tasks\[0\]: 'name' is missing; required: name, dataset, metric"),
        (["tasks", 0, "dataset"], ..., r"tasks\[0\]: 'dataset' is missing"),
        (["tasks", 0, "metric"], None, r"tasks\[0\]: 'metric' is missing"),
        (["tasks", 0, "name"], 5, r"tasks\[0\].name: expected a string, found 5"),
        (["tasks", 0, "name"], "", r"tasks\[0\].name: expected a string, found ''"),
        (["tasks", 1, "name"], "first", r"tasks\[1\].name: 'first' names an earlier task too"),
        (
            ["tasks", 0, "dataset"],
            "optdigit",
            r"tasks\[0\].dataset: .*'optdigit'; did you mean 'optdigits'\? Known: .*mnist",
        ),
        (["tasks", 0, "dataset"], 7, r"tasks\[0\].dataset: expected a name or a mapping, found 7"),
        (["tasks", 0, "dataset_type"], "table", r"tasks\[0\].dataset: 'optdigits' is a fusion_eval.data.Embedded, not"),
        (["tasks", 0, "dataset_type"], "tabel", r"tasks\[0\].dataset_type: unknown type 'tabel'; did you mean 'table'"),
        (["tasks", 2, "dataset_type"], ["table"], r"tasks\[2\].dataset_type: unknown type \['table'\]"),
        (["dataset_type"], ..., r"tasks\[1\].dataset: needs `_target_`, or a dataset_type; Known: arrays, embedded"),
        (["tasks", 0, "metric"], "acuracy", r"tasks\[0\].metric: .*'acuracy'; did you mean 'accuracy'"),
        (["tasks", 0, "metric"], ["accuracy", "los"], r"tasks\[0\].metric: .*'los'; did you mean 'loss'"),
        (["tasks", 0, "metric"], [], r"tasks\[0\].metric: expected a name, a list of names or a mapping"),
        (["tasks", 0, "metric"], {"name": "loss"}, r"tasks\[0\].metric: expected a name, a list of names or a mapping"),
        (["tasks", 1, "dataset"], {"name": "mnits"}, r"tasks.second.data: Embedded: name='mnits' does not exist"),
        (["tasks", 1, "dataset"], {"nam": "mnist"}, r"tasks.second.data.nam: unknown key; did you mean 'name'"),
        (["tasks", 2, "dataset"], "table", r"tasks.third.data.path, .*tasks.third.data.target: a value is required$"),
        (["tasks", 3, "metric", "_target_"], "torchmetrics.Acuracy", "cannot import .*did you mean 'Accuracy'"),
    ],
)
def test_a_mistake_is_refused_by_file_and_field(path, value, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        TaskPool.from_config(with_(path, value), source="pool.yaml")
    assert str(refusal.value).startswith("pool.yaml: ")
