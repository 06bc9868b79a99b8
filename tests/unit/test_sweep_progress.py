"""What a sweep says of itself while it runs."""

from __future__ import annotations

import os
import re
import time

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fusion_eval.config import _fresh_hydra
from fusion_eval.report.aggregates import aggregate
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, TaskFailure, TaskResult
from fusion_eval.report.writer import ReportWriter
from fusion_eval.sweep_progress import SweepProgress
from fusion_eval.sweeper import count_jobs, list_jobs


def write_job(directory, accuracy, status="complete", objective=None):
    """What a job leaves, without what it takes to run it."""
    writer = ReportWriter(directory, provenance({"objective": objective}))
    if status == "failed":
        writer.finish(References(), aggregate(writer.report, References()), [], "failed", TaskFailure("E", "", ""))
        return
    metrics = {"accuracy": accuracy, "loss": 2 * accuracy}
    writer.add("mnist", TaskResult(metrics, {}, "accuracy", count=10, seconds=0.1))
    if status != "running":
        writer.finish(References(), aggregate(writer.report, References()), [], "complete")


@pytest.fixture
def lines(capsys):
    """The lines on standard error since the last call."""
    return lambda: [line for line in capsys.readouterr().err.splitlines() if line]


def test_done_failed_best_and_time_left(tmp_path, lines):
    progress = SweepProgress(tmp_path, total=4)
    progress.look()
    assert lines() == []
    write_job(tmp_path / "0", 0.5)
    progress.look()
    [line] = lines()
    assert re.fullmatch(
        r"sweep: 1 of 4 jobs done, best so far: mean.accuracy 0.5000 of job 0, about \d:\d\d:\d\d left", line
    )
    write_job(tmp_path / "1", 0.9)
    write_job(tmp_path / "2", 0, status="failed")
    progress.look()
    progress.look()
    assert lines()[0].startswith("sweep: 3 of 4 jobs done, 1 failed, best so far: mean.accuracy 0.9000 of job 1, about")
    write_job(tmp_path / "3", 0.7)
    progress.look()
    assert lines() == ["sweep: 4 of 4 jobs done, 1 failed, best so far: mean.accuracy 0.9000 of job 1"]


def test_running_jobs_damaged_reports_and_those_of_an_earlier_sweep_do_not_count(tmp_path, lines):
    write_job(tmp_path / "0", 0.5)
    write_job(tmp_path / "selected", 0.99)
    progress = SweepProgress(tmp_path, total=None)
    write_job(tmp_path / "1", 0.9, status="running")
    (tmp_path / "2").mkdir()
    (tmp_path / "2/report.json").write_text("{")
    write_job(tmp_path / "selected", 0.98)
    progress.look()
    assert lines() == []
    write_job(tmp_path / "0", 0.4)  # again
    progress.look()
    assert lines() == ["sweep: 1 jobs done, best so far: mean.accuracy 0.4000 of job 0"]


@pytest.mark.parametrize(("objective", "best"), [("-mnist.loss", "mnist.loss 0.4000 of job a/0"), (None, "mean")])
def test_the_best_is_by_the_objective(tmp_path, lines, objective, best):
    progress = SweepProgress(tmp_path, total=2)
    write_job(tmp_path / "a/0", 0.2, objective=objective)
    write_job(tmp_path / "a/1", 0.4, objective=objective)
    progress.look()
    assert f"best so far: {best}" in lines()[0]


def test_without_a_common_number_there_is_no_best(tmp_path, lines):
    progress = SweepProgress(tmp_path, total=1)
    write_job(tmp_path / "0", 0, status="failed")
    progress.look()
    assert lines() == ["sweep: 1 of 1 jobs done, 1 failed"]


def test_the_time_left_is_judged_by_the_last_ten_jobs(tmp_path, lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fusion_eval.sweep_progress.time.monotonic", lambda: now[0])
    progress = SweepProgress(tmp_path, total=40)
    for job in range(20):
        now[0] += 0.1 if job < 10 else 60  # ten from the result store, then ten that run
        write_job(tmp_path / str(job), 0.5)
        progress.look()
    assert lines()[-1].endswith("about 0:20:00 left")


def test_jobs_of_other_processes_are_seen_by_a_thread_until_one_runs_here(tmp_path, lines, monkeypatch):
    monkeypatch.setattr("fusion_eval.sweep_progress._INTERVAL", 0.01)
    progress = SweepProgress(tmp_path, total=3)
    progress.start()
    write_job(tmp_path / "0", 0.5)
    deadline = time.monotonic() + 20
    while not (found := lines()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found[0].startswith("sweep: 1 of 3 jobs done")
    progress.here()
    write_job(tmp_path / "1", 0.5)
    time.sleep(0.05)
    assert lines() == []
    progress.stop()
    assert lines()[0].startswith("sweep: 2 of 3 jobs done")
    progress.stop()


def test_a_job_of_long_ago_is_not_read_again(tmp_path, monkeypatch):
    progress = SweepProgress(tmp_path, total=2)
    write_job(tmp_path / "0", 0.5)
    progress.look()
    (tmp_path / "0/report.json").chmod(0o000)
    os.utime(tmp_path / "0/report.json", ns=(progress._seen[tmp_path / "0/report.json"],) * 2)
    monkeypatch.setattr("fusion_eval.report.runs.read_run", None)
    progress.look()


@pytest.mark.parametrize(
    ("overrides", "total"),
    [
        (["model=ties,average", "model.scaling=0.1,0.2,0.3", "limit=5"], 6),
        (["model.scaling=range(0,1,0.1)"], 10),
        (["experiment=scaling"], 8),
        (["experiment=leave_one_out"], 5),
        (["experiment=number_of_experts", "seed=1,2"], 30),
        (["+hydra.sweeper.n_trials=7", "hydra.sweeper._target_=builtins.dict"], 7),
        (["hydra.sweeper._target_=builtins.dict"], None),
        (["model.scaling=interval(0,1)"], None),  # which the basic sweeper refuses
    ],
)
def test_jobs_are_counted_before_they_run(overrides, total):
    with _fresh_hydra(), initialize_config_module("fusion_eval.conf", version_base="1.3"):
        loader = GlobalHydra.instance().hydra.config_loader
        config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        assert count_jobs(config, list_jobs(config, loader)) == total
