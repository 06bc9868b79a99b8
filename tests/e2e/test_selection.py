"""`select_on=val`: a sweep on the validation splits, then the chosen configuration, and no other, on test."""

from __future__ import annotations

import json

import pytest

from fusion_eval import build, compose
from fusion_eval.selection import tasks_on_split

QUICK = ("limit=60", "bootstrap=0", "references=false", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")


def report(directory):
    return json.loads((directory / "report.json").read_text())


def data(document):
    return {task: prints["data"] for task, prints in document["fingerprints"].items()}


def test_only_the_chosen_one_is_evaluated_on_test_and_again_by_the_same_command(fusion_eval, tmp_path):
    """With a job that fails, and a logger: what a job writes into its directory goes into that of the chosen one."""
    sweep = ("-m", *QUICK, "model=ties", "logger=csv", "hydra.sweep.dir=sweep", "select_on=val")
    grid = ("model.scaling=0,0.5", "model.density=0.2,3")
    done = fusion_eval(*sweep, *grid, ok=False)
    assert "chosen on val by the mean of the primary metric" in done.stdout
    jobs = [report(tmp_path / f"sweep/{job}") for job in range(4)]
    assert [job["status"] for job in jobs] == ["complete", "failed", "complete", "failed"]
    assert {job["selected_on"] for job in jobs} == {"val"}
    best = max(jobs[::2], key=lambda job: job["aggregates"]["mean"]["accuracy"]["value"])
    selected = report(tmp_path / "sweep/selected")
    assert (selected["status"], selected["selected_on"]) == ("complete", "val")
    assert selected["provenance"]["config"]["model"] == best["provenance"]["config"]["model"]
    assert (tmp_path / "sweep/selected/csv/metrics.csv").is_file()

    scaling = best["provenance"]["config"]["model"]["scaling"]
    cfg = compose([*QUICK, "model=ties", f"model.scaling={scaling}", "store=off"])
    pool = build(cfg.taskpool)
    on_test = pool.evaluate(build(cfg.modelpool).merge(build(cfg.model)), build(cfg.runner))
    assert selected["report"] == {task: pytest.approx(metrics) for task, metrics in on_test.items()}
    for split, documents in {"test": [selected], "val": jobs[::2]}.items():
        tasks = tasks_on_split(pool.tasks, split)
        fingerprints = {name: task.data.load().fingerprint() for name, task in tasks.items()}
        assert all(data(document) == fingerprints for document in documents)

    csv = (tmp_path / "sweep/leaderboard.csv").read_bytes()
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    assert {entry["directory"] for entry in board["entries"]} == {"0", "2"}
    assert {(entry["selected_on"], *entry["splits"]) for entry in board["entries"]} == {("val", "val")}

    fusion_eval(*sweep, *grid, ok=False)
    again = report(tmp_path / "sweep/selected")
    assert [again[key] for key in ("report", "evaluated_at")] == [selected[key] for key in ("report", "evaluated_at")]
    assert (tmp_path / "sweep/leaderboard.csv").read_bytes() == csv


def test_where_all_jobs_fail_nothing_is_selected_any_more(fusion_eval, tmp_path):
    (tmp_path / "sweep/selected").mkdir(parents=True)
    (tmp_path / "sweep/selected/report.json").write_text("of an earlier sweep")
    fusion_eval("-m", *QUICK, "hydra.sweep.dir=sweep", "select_on=val", "model.scaling=nan", ok=False)
    assert not (tmp_path / "sweep/selected/report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("select_on=val",), "select_on=val chooses among the jobs of a sweep: add -m"),
        (("-m", "select_on=val", "selected_on=val"), "selected_on=val and select_on=val exclude each other"),
    ],
)
def test_what_would_leak_or_means_nothing_is_refused(fusion_eval, tmp_path, arguments, says):
    done = fusion_eval(*arguments, "hydra.sweep.dir=sweep", "hydra.run.dir=run", ok=False)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep/selected").exists()


def test_two_processes_a_job(fusion_eval, tmp_path):
    """Their second process replays the sweep, and has no part in what comes after it."""
    ddp = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    fusion_eval("-m", *QUICK, *ddp, "model.scaling=0,0.3", "hydra.sweep.dir=sweep", "select_on=val")
    selected = report(tmp_path / "sweep/selected")
    assert (selected["status"], set(selected["counts"].values())) == ("complete", {60})
