"""One evaluation from the command line: what it shows and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

TASKS = ["optdigits", "mnist", "scripts", "textures"]


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("empty")
    environment = {**os.environ, "FUSION_EVAL_CACHE": str(tmp_path_factory.mktemp("cache"))}
    done = subprocess.run(
        [sys.executable, "-m", "fusion_eval"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    [report] = directory.glob("outputs/*/*/report.json")
    return done, report.parent, json.loads(report.read_text())


def test_it_shows_progress_and_then_a_table(default_run):
    done, directory, document = default_run
    for task in TASKS:
        assert f"merged on {task}" in done.stderr
        assert f"expert on {task}" in done.stderr
        accuracy, error = document["report"][task]["accuracy"], document["standard_errors"][task]["accuracy"]
        expert = document["references"]["experts"][task]["accuracy"]
        [row] = [line for line in done.stdout.splitlines() if line.split()[:1] == [task]]
        assert f"{accuracy:.4f} ± {error:.4f}" in row
        assert f"{document['report'][task]['loss']:.4f}" in row
        assert f"{expert:.4f}" in row
        assert f"{accuracy / expert:.4f}" in row
    for name in ("mean.accuracy", "mean_of_ratios", "ratio_of_means", "share_of_gap", "worst.accuracy"):
        assert name in done.stdout
    assert str(directory / "report.json") in done.stdout


def test_report_json_is_whole(default_run):
    _, _, document = default_run
    assert document["schema_version"] == 1
    assert document["status"] == "complete"
    assert list(document["report"]) == TASKS
    assert document["failures"] == {}
    for task, metrics in document["report"].items():
        assert {"accuracy", "loss", "top5", "macro_f1", "balanced_accuracy", "ece"} == set(metrics)
        assert all(isinstance(value, float) for value in metrics.values())
        assert set(document["standard_errors"][task]) == set(metrics)
    normalised = document["aggregates"]["normalised"]
    ratios = [document["report"][t]["accuracy"] / document["references"]["experts"][t]["accuracy"] for t in TASKS]
    assert normalised["mean_of_ratios"]["value"] == pytest.approx(np.mean(ratios))
    assert document["provenance"]["config"]["model"]["_target_"] == "fusion_eval.merging.TaskArithmetic"
    assert {"torch", "lightning", "torchmetrics"} <= set(document["provenance"]["versions"])


def test_the_files_of_samples_make_the_report(default_run):
    _, directory, document = default_run
    assert "mean.accuracy" in (directory / "report.md").read_text()
    for task in TASKS:
        samples = pq.read_table(directory / "samples" / f"{task}.parquet").to_pydict()
        assert {"index", "target", "prediction", "loss", "confidence"} <= set(samples)
        assert samples["index"] == list(range(document["counts"][task]))
        hits = np.array(samples["prediction"]) == np.array(samples["target"])
        assert hits.mean() == pytest.approx(document["report"][task]["accuracy"], abs=1e-12)
        assert np.mean(samples["loss"]) == pytest.approx(document["report"][task]["loss"], abs=1e-6)


def test_it_writes_where_it_is_told(fusion_eval, quick, tmp_path):
    fusion_eval(*quick, "hydra.run.dir=here/I/am")
    assert {path.name for path in (tmp_path / "here/I/am").iterdir()} == {
        ".hydra",
        "report.html",
        "report.json",
        "report.md",
        "samples",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "here"}  # the result store of the test, and the run


def test_two_runs_at_once_do_not_meet(tmp_path, quick, environment):
    command = [sys.executable, "-m", "fusion_eval", *quick]
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert len(list(tmp_path.glob("outputs/*/*/report.json"))) == 2


@pytest.mark.parametrize("module", ["cli", "report_cli"])
def test_help_does_not_wait_for_torch(module):
    heavy = "{'torch', 'lightning', 'torchmetrics', 'pandas', 'sklearn', 'pyarrow', 'rich'}"
    code = f"import sys; import fusion_eval.{module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_has_examples(started_alone):
    shown = started_alone("--help").stdout
    assert "fusion-eval model=ties model.density=0.3" in shown
    for group in ("taskpool", "dataset", "metrics", "modelpool", "model", "trainer"):
        assert f"\n{group}: " in shown


def test_tab_completion(fusion_eval, environment):
    assert "complete" in fusion_eval("-sc", "install=bash").stdout
    environment["COMP_LINE"] = "fusion-eval model="
    assert {"model=ties", "model=average"} <= set(fusion_eval("-sc", "query=bash").stdout.split())
    environment["COMP_LINE"] = "fusion-eval trainer."
    assert "trainer.devices=" in fusion_eval("-sc", "query=bash").stdout.split()
