"""Every YAML in conf/ composes and builds without data; a new one fails here until it is covered."""

from __future__ import annotations

import logging.config
import warnings
from collections.abc import Mapping
from pathlib import Path

import fusion_eval.conf
import lightning.pytorch as pl
import pytest
import torch
import yaml
from sklearn.metrics import balanced_accuracy_score
from torchmetrics import Metric

from fusion_eval import BaseTaskPool, Classification, DummyTaskPool, ModelPool, Runner, TaskPool, build, compose
from fusion_eval.config import compose_option
from fusion_eval.data import DataSource, Embedded, TensorSamples
from fusion_eval.errors import ConfigError
from fusion_eval.help import help_text
from fusion_eval.merging import MergingMethod
from fusion_eval.racing import Racing
from fusion_eval.selection import on_selection_split
from fusion_eval.tasks import MultiLabel, Task

CONF = Path(fusion_eval.conf.__file__).parent


def option_of(path):
    """Group and option of a file: the option may lie in a folder of its group, as `hub/sun397` of `dataset`."""
    group, *folders = path.parent.relative_to(CONF).parts
    if group == "hydra":
        group, folders = f"{group}/{folders[0]}", []
    return group, "/".join([*folders, path.stem])


OPTIONS = sorted(option_of(path) for path in CONF.rglob("*.yaml") if path.parent != CONF)

REQUIRED = {
    ("dataset", "arrays"): ["{node}.inputs=digits.npz"],
    ("dataset", "choice_prompts"): ["{node}.path=questions", "{node}.input=[question,choices]", "{node}.target=answer"],
    ("dataset", "completion_prompts"): ["{node}.path=questions", "{node}.input=[question]", "{node}.target=answer"],
    ("dataset", "folder"): ["{node}.root=photos"],
    ("dataset", "huggingface"): ["{node}.path=ylecun/mnist"],
    ("dataset", "mapstyle"): ["{node}.dataset._target_=torch.utils.data.TensorDataset"],
    ("dataset", "table"): ["{node}.path=digits.csv", "{node}.target=digit"],
    ("dataset", "text_windows"): ["{node}.path=texts"],
    ("model", "checkpoint"): ["{node}.path=merged.safetensors"],
    ("model", "expert"): ["{node}.name=mnist"],
    ("model", "mergekit_recipe"): ["{node}.recipe=recipe.yml"],
    ("model", "nuslerp"): ["{node}.start=mnist", "{node}.end=optdigits"],
    ("model", "slerp"): ["{node}.end=mnist"],
    ("model", "wise_ft"): ["{node}.name=mnist"],
    ("modelpool", "open_clip_ta8"): ["{node}.base=b.safetensors", "{node}.experts={{dtd: e.safetensors}}"],
    ("task", "classification"): ["dataset@{node}.data=mnist"],
    ("task", "clip_zero_shot"): ["dataset@{node}.data=hub/dtd", "{node}.head.classes=dtd"],
    ("task", "generation"): ["dataset@{node}.data=mnist"],
    ("task", "image_classification"): ["{node}.data.path=photos"],
    ("task", "language_modelling"): ["dataset@{node}.data=mnist"],
    ("task", "multi_label"): ["dataset@{node}.data=mnist"],
    ("task", "multiple_choice"): ["dataset@{node}.data=mnist"],
    ("task", "preference"): ["dataset@{node}.data=mnist"],
    ("task", "regression"): ["dataset@{node}.data=mnist"],
    ("task", "retrieval"): ["dataset@{node}.data=mnist"],
    ("task", "sentence_similarity"): ["dataset@{node}.data=mnist"],
    ("taskpool", "file"): ["{node}.path={pool}"],
}
"""What stands as `???` in an option: the overrides that a user must give."""

KINDS = {
    "dataset": ("taskpool.tasks.mnist.data", "dataset@taskpool.tasks.mnist.data={}", DataSource),
    "metrics": ("taskpool.tasks.mnist.metrics", "metrics@taskpool.tasks.mnist.metrics={}", Mapping),
    "model": ("model", "model={}", MergingMethod),
    "modelpool": ("modelpool", "modelpool={}", ModelPool),
    "task": ("taskpool.tasks.mine", "+task@taskpool.tasks.mine={}", Task),
    "taskpool": ("taskpool", "taskpool={}", BaseTaskPool),
    "trainer": ("trainer", "trainer={}", object),
    "transform": ("taskpool.tasks.mine.data.transform", "transform@taskpool.tasks.mine.data.transform={}", object),
}
"""Group to the node it is mounted on, the override that chooses an option there, and what that must build."""

ELSEWHERE = {
    *("experiment", "logger", "racing", "store"),
    *("hydra/help", "hydra/job_logging", "hydra/launcher", "hydra/sweeper"),
}
"""Groups with a test of their own below."""


def read(group, option):
    return yaml.safe_load((CONF / group / f"{option}.yaml").read_text())


def has_missing(node):
    if isinstance(node, dict):
        return any(has_missing(child) for child in node.values())
    return any(has_missing(child) for child in node) if isinstance(node, list) else node == "???"


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.yaml"
    DummyTaskPool("merged.safetensors").to_yaml(path)
    return path


def overrides(group, option, pool):
    node, choose, _ = KINDS[group]
    around = ["modelpool=clip_vit_b32_ta8"] if group in ("task", "taskpool", "transform") else []
    around += ["+task@taskpool.tasks.mine=clip/dtd"] if group == "transform" else []
    required = [line.format(node=node, pool=pool) for line in REQUIRED.get((group, option), [])]
    return [*around, choose.format(option), *required]


def test_every_group_is_covered():
    assert {group for group, _ in OPTIONS} == KINDS.keys() | ELSEWHERE


def test_every_required_value_is_in_the_table():
    needed = {(group, option) for group, option in OPTIONS if has_missing(read(group, option))}
    assert needed <= REQUIRED.keys()  # others inherit theirs


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in KINDS])
def test_an_option_composes_and_builds_without_data(group, option, pool):
    node, _, kind = KINDS[group]
    cfg = compose(overrides(group, option, pool))
    parts = node.split(".")
    while "_target_" not in _at(cfg, parts):  # a mapping of metrics is built as part of its task
        parts.pop()
    built = build(_at(cfg, parts))
    for part in node.split(".")[len(parts) :]:
        built = getattr(built, part)
    assert isinstance(built, kind)


def _at(cfg, parts):
    for part in parts:
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize(("group", "option"), sorted(REQUIRED))
def test_a_required_value_left_out_is_named_with_its_whole_key(group, option, pool):
    node = KINDS[group][0]
    chosen = overrides(group, option, pool)[: -len(REQUIRED[group, option])]
    if "/dataset@data: ???" in (CONF / group / f"{option}.yaml").read_text():
        with pytest.raises(ConfigError, match=r"You must specify 'dataset@taskpool.tasks.mine.data'"):
            compose(chosen)
        return
    with pytest.raises(ConfigError, match=r"[^ ]: a value is required, for example \S+=\.\.\.$") as refusal:
        build(compose(chosen)[node.split(".")[0]])
    assert str(refusal.value).startswith(f"{node}.")
    example = str(refusal.value).rpartition(" ")[2].removesuffix("=...")
    compose([*chosen, f"{example}=x"])


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "metrics"])
def test_every_metric_can_be_made_for_any_number_of_classes(option, classes):
    metrics = build({"_target_": "builtins.dict", **compose_option("metrics", option)})
    task = (MultiLabel if option == "multi_label" else Classification)(Embedded("mnist"), metrics)
    samples = TensorSamples(torch.zeros(1), torch.tensor([0]), [str(i) for i in range(classes)])
    assert all(isinstance(metric, Metric) for metric in task.build_metrics(samples).values())


def test_balanced_accuracy_leaves_classes_without_samples_out():
    metric = build(compose_option("metrics", "balanced_accuracy")["balanced_accuracy"])(num_classes=3)
    metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score([0, 1, 1], [0, 1, 2])
    assert float(metric.compute()) == expected


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "trainer"])
def test_a_trainer_is_made_of_the_settings_when_a_task_runs(option):
    here = ["trainer.accelerator=cpu", "trainer.devices=1"]  # whatever the machine has
    runner = build(compose([f"trainer={option}", "precision=bf16-mixed", *here]).runner)
    assert isinstance(runner, Runner)
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        trainer = runner.trainer()
    finally:
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
    assert isinstance(trainer, pl.Trainer)
    assert trainer.precision == "bf16-mixed"
    assert trainer.loggers == []
    assert trainer.checkpoint_callback is None
    assert trainer.progress_bar_callback is None


def test_the_settings_reach_the_runner():
    cfg = compose(["batch_size=3", "num_workers=1", "limit=50", "seed=7", "bootstrap=9", "progress=false"])
    runner = build(cfg.runner)
    found = {
        name: getattr(runner, name) for name in ("batch_size", "num_workers", "limit", "seed", "bootstrap", "progress")
    }
    assert found == {"batch_size": 3, "num_workers": 1, "limit": 50, "seed": 7, "bootstrap": 9, "progress": False}


def test_the_default_config_is_the_embedded_pool_and_builds():
    cfg = compose()
    pool, models = build(cfg.taskpool), build(cfg.modelpool)
    assert isinstance(pool, TaskPool)
    assert (
        list(pool.tasks) == list(models.experts) == list(models.heads) == ["optdigits", "mnist", "scripts", "textures"]
    )
    assert {task.primary for task in pool.tasks.values()} == {"accuracy"}
    assert {task.data.split for task in pool.tasks.values()} == {"test"}
    assert isinstance(build(cfg.model), MergingMethod)


def test_a_task_is_swapped_added_and_removed_by_overrides():
    cfg = compose(
        [
            "dataset@taskpool.tasks.mnist.data=optdigits",
            "+task@taskpool.tasks.again=scripts",
            "~taskpool.tasks.textures",
            "metrics@taskpool.tasks.mnist.metrics=loss",
        ]
    )
    tasks = build(cfg.taskpool).tasks
    assert list(tasks) == ["optdigits", "mnist", "scripts", "again"]
    assert tasks["mnist"].data.name == "optdigits"
    assert tasks["again"].data.name == "scripts"
    assert list(tasks["mnist"].metrics) == ["loss"]


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
def test_an_experiment_composes_and_builds(option):
    if option == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cfg = compose([f"experiment={option}"])
    for node in ("taskpool", "modelpool", "model", "runner"):
        build(cfg[node])


def test_the_scaling_coefficient_is_searched_on_the_validation_split():
    cfg = compose(["experiment=scaling"])
    assert {task.data.split for task in build(cfg.taskpool).tasks.values()} == {"test"}
    assert on_selection_split(cfg).split == "val"


def test_what_an_experiment_sets_is_set():
    assert compose(["experiment=scaling"]).select_on == "val"


def test_racing_is_on_or_off():
    assert build(compose(["racing=on", "racing.error=0.01"]).racing) == Racing(error=0.01)
    assert compose(["racing=off"]).racing == compose([]).racing == {"_target_": None}


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "logger"])
def test_a_logger_is_built_into_the_trainer(option, tmp_path, monkeypatch):
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    monkeypatch.setattr(
        HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path)}}})
    )
    monkeypatch.chdir(tmp_path)
    if option != "csv":
        pytest.importorskip(option)
    runner = build(compose([f"logger={option}"]).runner)
    [logger] = runner.loggers
    assert runner.trainer().loggers == [logger]
    if option != "mlflow":  # it is a data base
        assert Path(logger.save_dir).is_relative_to(tmp_path)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "hydra/job_logging"])
def test_job_logging_shows_warnings_and_no_chatter(option, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logging.config.dictConfig(read("hydra/job_logging", option))
        logging.getLogger("anything").info("chatter")
        logging.getLogger("anything").warning("mind the gap")
    finally:
        root.handlers, root.level = handlers, level
    out, err = capsys.readouterr()
    assert out == ""
    assert "mind the gap" in err
    assert "chatter" not in err


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "hydra/help"])
def test_the_help_has_what_hydra_fills_in(option):
    config = read("hydra/help", option)
    assert config.keys() >= {"app_name", "header", "footer", "template"}
    settings = {key for key in compose() if key not in ("calibration", "runner", *(group for group in KINDS))}
    shown = config["template"] + config["footer"]
    assert [key for key in sorted(settings) if f"{key}=" not in shown] == []


def test_the_help_lists_every_option_as_it_is_written_behind_its_group():
    _, _, groups = help_text().partition("(group=option)\n\n")
    listed, group = set(), ""
    for line in groups.partition("\n\n")[0].splitlines():
        name, _, options = line.rpartition(": ")
        group = name or group  # a line without a name goes on with the group of the one before
        listed |= {(group, option) for option in options.strip().split(", ")}
    assert {pair for pair in OPTIONS if pair[0] not in ("hydra/help", "hydra/job_logging")} <= listed


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_says_in_its_first_line_what_it_is(group, option):
    if group == "dataset" and read(group, option).get("_target_") == "fusion_eval.data.Embedded":
        pytest.skip("name and split say it all")
    if group == "hydra/help":
        pytest.skip("it is itself a text")
    assert (CONF / group / f"{option}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=tiez", "Could not find 'model/tiez'"),
        ("modell=ties", "modell"),
        ("model.scalling=0.3", "scalling"),
        ("model.scaling=[", "no viable alternative"),
        ("taskpool.tasks.mnits.head=null", "mnits"),
    ],
)
def test_a_wrong_override_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose([override])


def test_composing_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose()


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "store"])
def test_a_store_reaches_the_runner(option, monkeypatch):
    monkeypatch.setenv("FUSION_EVAL_CACHE", "/cache")
    assert build(compose([f"store={option}"]).runner).store == {"on": "/cache/results", "off": None}[option]
