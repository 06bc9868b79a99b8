"""Methods with data, from config to report: which samples they used is said, and evaluated ones are refused."""

from __future__ import annotations

import json

import pytest
import torch

from fusion_eval import build, compose
from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.evaluation import evaluate

TASKS = ["mnist", "optdigits"]
TWO_EXPERTS = ["~modelpool.experts.scripts", "~modelpool.experts.textures"]
TWO_TASKS = [*TWO_EXPERTS, "~taskpool.tasks.scripts", "~taskpool.tasks.textures"]
QUICK = ["limit=50", "bootstrap=0", "references=false", "progress=false", "calibration.samples=12"]


@pytest.fixture
def run(tmp_path):
    """`run(*overrides)`: evaluate, on two tasks, and read the report."""

    def run(*overrides, pool=TWO_TASKS):
        evaluate(compose([*QUICK, *pool, *overrides]), tmp_path)
        return json.loads((tmp_path / "report.json").read_text())

    return run


@pytest.mark.parametrize(
    "overrides",
    [["model=fisher", "model.labels=data"], ["model=regmean"], ["model=adamerging_layer", "model.steps=2"]],
)
def test_the_report_says_which_samples_were_used(run, overrides):
    report = run(*overrides)
    assert report["status"] == "complete"
    used = report["merge"]["calibration"]
    assert list(used["experts"]) == TASKS
    for task, facts in used["experts"].items():
        assert (facts["split"], facts["samples"], facts["left_out"]) == ("train", 12, 0)
        assert facts["fingerprint"] != report["fingerprints"][task]["data"]


def test_learnt_coefficients_are_in_the_report(run):
    coefficients = run("model=adamerging_task", "model.steps=2", "model.learning_rate=0.01")["merge"]["coefficients"]
    assert list(coefficients) == TASKS
    assert all(0.27 < value < 0.33 and value != 0.3 for value in coefficients.values())


def test_methods_without_data_load_none(run, monkeypatch):
    monkeypatch.setattr("fusion_eval.tasks.Calibration.__init__", None)  # would be called
    assert run("model=average")["merge"] == {}


def test_samples_that_are_evaluated_are_refused(run):
    with pytest.raises(ConfigError, match=r"task 'mnist': its split 'test' is evaluated; set calibration\.split"):
        run("model=regmean", "calibration.split=test")
    report = run("model=regmean", "calibration.split=val")
    assert {facts["split"] for facts in report["merge"]["calibration"]["experts"].values()} == {"val"}


def test_other_data_for_a_task_is_an_override(run):
    other = ["+dataset@calibration.data.mnist=optdigits", "calibration.data.mnist.split=val"]
    experts = run("model=regmean", *other)["merge"]["calibration"]["experts"]
    assert experts["mnist"]["split"] == "val"
    assert experts["optdigits"]["split"] == "train"


def test_without_tasks_there_is_no_data(run):
    assert run("taskpool=dummy", pool=TWO_EXPERTS)["status"] == "complete"
    with pytest.raises(ConfigError, match="expert 'mnist' has no calibration data"):
        run("taskpool=dummy", "model=fisher", pool=TWO_EXPERTS)


@pytest.mark.parametrize("model", [["fisher", "model.labels=data"], ["regmean"], ["adamerging_layer", "model.steps=2"]])
def test_the_number_of_threads_changes_no_bit(model):
    cfg = compose([*QUICK, *TWO_TASKS, f"model={model[0]}", *model[1:]])
    pool, threads, made = build(cfg.modelpool), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(build(cfg.model)(*pool.open()))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=0)


def test_a_model_without_batch_norm_is_not_recalibrated(run):
    with pytest.raises(MergeError, match="no BatchNorm with statistics"):
        run("model=recalibrated", "model@model.method=ties")
