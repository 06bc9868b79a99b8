"""The usual ways of Hydra, from a subprocess."""

from __future__ import annotations

import json
import re

import pytest
import yaml


def report_of(directory):
    return json.loads((directory / "report.json").read_text())


def test_overrides_reach_the_run(fusion_eval, quick, tmp_path):
    fusion_eval(
        *quick, "hydra.run.dir=run", "model=ties", "model.density=0.3", "batch_size=7", "num_workers=2", "seed=3"
    )
    document = report_of(tmp_path / "run")
    assert set(document["counts"].values()) == {41}
    config = document["provenance"]["config"]
    assert (config["model"]["density"], config["runner"]["batch_size"], config["runner"]["seed"]) == (0.3, 7, 3)


def test_tasks_are_removed_added_and_swapped(fusion_eval, quick, tmp_path):
    fusion_eval(
        *quick,
        "hydra.run.dir=run",
        "~taskpool.tasks.scripts",
        "~taskpool.tasks.textures",
        "dataset@taskpool.tasks.mnist.data=optdigits",
        "+task@taskpool.tasks.again=mnist",
        "taskpool.tasks.again.data.split=val",
    )
    document = report_of(tmp_path / "run")
    assert list(document["report"]) == ["optdigits", "mnist", "again"]
    data = {task: prints["data"] for task, prints in document["fingerprints"].items()}
    assert data["mnist"] == data["optdigits"] != data["again"]


def test_jobs_to_come_are_tried_as_a_group(fusion_eval, tmp_path):
    settings = ["limit=9", "batch_size=1", "bootstrap=0", "references=false", "audit=false", "hydra.sweep.dir=sweep"]
    log = "hydra.verbose=fusion_eval.engine.group"
    done = fusion_eval("-m", *settings, log, "model=average,task_arithmetic", "model.scaling=0.2,0.4")
    assert re.search(r"[34] models: ", done.stdout + done.stderr)  # as a group, or why not: that depends on the times
    assert {report_of(tmp_path / "sweep" / number)["status"] for number in "0123"} == {"complete"}


def test_a_sweep_over_methods_and_scalings(fusion_eval, quick, tmp_path):
    fusion_eval("-m", *quick, "hydra.sweep.dir=sweep", "model=average,ties", "model.scaling=0.2,0.4")
    chosen = [report_of(tmp_path / "sweep" / str(job))["provenance"]["config"]["model"] for job in range(4)]
    assert [(model["_target_"].rpartition(".")[2], model["scaling"]) for model in chosen] == [
        ("Average", 0.2),
        ("Average", 0.4),
        ("Ties", 0.2),
        ("Ties", 0.4),
    ]


def test_a_failing_job_does_not_end_a_sweep(fusion_eval, quick, tmp_path):
    done = fusion_eval("-m", *quick, "hydra.sweep.dir=sweep", "model=ties", "model.density=2,0.5", ok=False)
    assert "density" in done.stderr
    assert report_of(tmp_path / "sweep/1")["status"] == "complete"


def test_an_experiment_chooses_on_validation(fusion_eval, quick, tmp_path):
    fusion_eval("experiment=scaling", *quick, "hydra.sweep.dir=sweep", "model.scaling=0.3")
    document = report_of(tmp_path / "sweep/0")
    assert document["selected_on"] == "val"
    assert document["provenance"]["config"]["split"] == "val"
    selected = report_of(tmp_path / "sweep/selected")
    assert (selected["selected_on"], selected["provenance"]["config"]["split"]) == ("val", None)


def test_the_config_is_printed_and_nothing_is_run(fusion_eval, tmp_path):
    config = yaml.safe_load(fusion_eval("model=expert", "model.name=mnist", "--cfg", "job").stdout)
    assert config["model"] == {"_target_": "fusion_eval.merging.Expert", "name": "mnist"}
    assert "pkg://fusion_eval.conf" in fusion_eval("--info", "searchpath").stdout
    assert not any(tmp_path.rglob("report.json"))


def test_a_config_directory_of_ones_own(fusion_eval, quick, tmp_path):
    (tmp_path / "mine/taskpool").mkdir(parents=True)
    (tmp_path / "mine/taskpool/digits.yaml").write_text(
        "defaults:\n  - /task@tasks.mine: optdigits\n_target_: fusion_eval.taskpool.TaskPool\n"
    )
    fusion_eval("--config-dir", "mine", "taskpool=digits", *quick, "hydra.run.dir=run")
    assert list(report_of(tmp_path / "run")["report"]) == ["mine"]


def test_a_pool_in_the_original_form(fusion_eval, quick, tmp_path):
    (tmp_path / "pool.yaml").write_text(
        "type: classification\ndataset_type: embedded\n"
        "tasks:\n  - {name: first, dataset: optdigits, metric: accuracy}\n"
        "  - {name: second, dataset: mnist, metric: [accuracy, loss]}\n"
    )
    fusion_eval("taskpool=file", "taskpool.path=pool.yaml", "limit=41", "hydra.run.dir=run")
    document = report_of(tmp_path / "run")
    assert {task: list(metrics) for task, metrics in document["report"].items()} == {
        "first": ["accuracy"],
        "second": ["accuracy", "loss"],
    }
    assert set(document["references"]["experts"]) == {"first", "second"}


def test_a_merge_is_saved_and_evaluated_from_its_file(fusion_eval, quick, tmp_path):
    fusion_eval("taskpool=dummy", "taskpool.save_path=merged.safetensors", "model=average", "hydra.run.dir=save")
    assert report_of(tmp_path / "save")["report"]["model"]["parameters"] > 1e5
    fusion_eval(*quick, "model=checkpoint", "model.path=merged.safetensors", "hydra.run.dir=loaded")
    fusion_eval(*quick, "store=off", "model=average", "hydra.run.dir=merged")
    assert report_of(tmp_path / "loaded")["report"] == report_of(tmp_path / "merged")["report"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=tis", "ties"),
        ("model.scalling=1", "scalling"),
        ("model=expert", "model.name"),
        ("batch_size=0", "batch_size"),
        ("on_error=ignore", "raise, record"),
        ("selected_on=vall", "selected_on"),
        ("modelpool.experts.mnist=missing.safetensors", "missing.safetensors"),
        ("taskpool.tasks.mnist.data.split=tset", "taskpool.tasks.mnist.data"),
        ("+taskpool.tasks.mnist.metrcs=1", "metrics"),
        ("taskpool.tasks.mnist.data._target_=os.system", "taskpool.tasks.mnist.data.name: unknown key"),
        ("trainer=gpu", "gpu"),
    ],
)
def test_a_wrong_override_gets_one_clear_error_before_anything_runs(fusion_eval, tmp_path, override, says):
    done = fusion_eval(override, "hydra.run.dir=run", ok=False)
    assert says in done.stderr.lower() + done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "merged on" not in done.stderr
    assert not (tmp_path / "run/report.json").exists()
