"""A sweep whose jobs are evaluated in groups gives what its jobs give one by one."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

from fusion_eval import build, compose, lookahead
from fusion_eval.engine import ahead, group, members
from fusion_eval.engine import kind as kind_module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import FusionEvalError
from fusion_eval.evaluation import evaluate
from fusion_eval.models import ModelPool
from fusion_eval.report.leaderboard import leaderboard
from fusion_eval.report.runs import find_runs, read_run

SETTINGS = [
    "~taskpool.tasks.scripts",
    "~taskpool.tasks.textures",
    "limit=24",
    "batch_size=6",
    "bootstrap=5",
    "audit=false",
    "progress=false",
    "references=false",
]
JOBS = [
    ["model=average"],
    ["model=task_arithmetic", "model.scaling=0.2"],
    ["model=ties", "model.density=2"],  # refused
    ["model=emr_merging"],  # another model for each task
    ["model=expert", "model.name=nobody"],  # fails when it merges
    ["model=task_arithmetic", "model.scaling=0.4"],
    ["model=task_arithmetic", "model.scaling=0.4", "limit=23"],  # other samples
    ["model=ties", "+model.weights.mnist=2"],
    ["model=expert", "model.name=mnist"],
]
FAILING = (2, 4)


@pytest.fixture(autouse=True)
def start(monkeypatch):
    """A process in which nothing is known yet, and groups are taken whatever time they take; again when called."""
    monkeypatch.setattr(group, "_LAUNCHES", 0)
    monkeypatch.setattr(group, "_FASTER", float("inf"))
    monkeypatch.setattr(lookahead, "_PATIENCE", float("inf"))

    def fresh(jobs, settings):
        store, rows = ResultStore(), ahead.RowsAhead(10**9)
        for module in (runner_module, members):
            monkeypatch.setattr(module, "process_store", store)
            monkeypatch.setattr(module, "process_ahead", rows)
        monkeypatch.setattr(kind_module, "_choices", {})
        monkeypatch.setattr(lookahead, "_sweep", [])
        lookahead.expect_jobs(compose, [[*job, *settings] for job in jobs])

    return fresh


@pytest.fixture
def merges(monkeypatch):
    """The methods that merged, in order."""
    seen, merge = [], ModelPool.merge

    def spy(self, method, *args, **kwargs):
        seen.append(method)
        return merge(self, method, *args, **kwargs)

    monkeypatch.setattr(ModelPool, "merge", spy)
    return seen


def run(directory, jobs, settings, numbers=None):
    """Jobs in their turn, as Hydra's basic launcher runs them; the errors by number."""
    errors = {}
    for number in range(len(jobs)) if numbers is None else numbers:
        lookahead.begin_job(number)
        try:
            evaluate(compose([*jobs[number], *settings]), directory / str(number))
        except FusionEvalError as error:
            errors[number] = str(error)
    return errors


def assert_same(directory, expected):
    for number in range(len(JOBS)):
        if number in FAILING:
            continue
        ours, theirs = (read_run(folder / str(number)) for folder in (directory, expected))
        assert ours.document["fingerprints"] == theirs.document["fingerprints"]
        for task in theirs.tasks:
            for part in ("report", "standard_errors"):
                assert ours.document[part][task] == pytest.approx(theirs.document[part][task], abs=1e-6)
            assert ours.document["report"][task]["accuracy"] == theirs.document["report"][task]["accuracy"]
            columns, others = ours.samples(task), theirs.samples(task)
            assert list(columns) == list(others)
            assert all(np.allclose(columns[name], others[name], atol=1e-5) for name in others)
    ours, theirs = (leaderboard(find_runs([folder])[0], resamples=1).entries for folder in (directory, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert one.directory.name == other.directory.name
        assert (one.headline.value, one.tied) == (other.headline.value, other.tied)


def test_a_sweep_with_jobs_of_every_kind(tmp_path, start, merges, capsys):
    settings = [*SETTINGS, "store=off"]
    start(JOBS, settings)
    errors = run(tmp_path / "auto", JOBS, settings)
    assert tuple(errors) == FAILING
    assert len(merges) == len(set(map(repr, merges))) + 2  # each once; what fails also early; one on other samples
    start(JOBS, settings)
    assert run(tmp_path / "off", JOBS, [*settings, "group=off"]) == errors
    assert_same(tmp_path / "auto", tmp_path / "off")


def test_a_sweep_that_was_killed_goes_on(tmp_path, start, capsys):
    settings = [*SETTINGS, f"store.path={tmp_path / 'store'}"]
    start(JOBS, settings)
    run(tmp_path / "auto", JOBS, settings, range(3))  # more is known by now than is done
    start(JOBS, settings)
    run(tmp_path / "auto", JOBS, settings)
    start(JOBS, settings)
    run(tmp_path / "off", JOBS, [*SETTINGS, "store=off", "group=off"])
    assert_same(tmp_path / "auto", tmp_path / "off")


def test_a_checkpoint_that_changed_meanwhile_is_merged_again(tmp_path, start, merges, capsys):
    base = tmp_path / "base.safetensors"
    base.write_bytes((resources.files("fusion_eval.zoo") / "base.safetensors").read_bytes())
    settings = [*SETTINGS, "store=off", f"modelpool.base={base}"]
    jobs = [["model=task_arithmetic", f"model.scaling={scaling}"] for scaling in (0.1, 0.2, 0.3)]
    start(jobs, settings)
    run(tmp_path / "early", jobs, settings, range(1))
    assert len(merges) == 3
    base.write_bytes((resources.files("fusion_eval.zoo") / "mnist.safetensors").read_bytes())
    run(tmp_path / "late", jobs, settings, range(1, 3))
    assert len(merges) == 3 + 2
    start(jobs, settings)
    run(tmp_path / "again", jobs, [*settings, "group=off"], range(1, 3))
    for number in "12":
        late, again = (
            json.loads((tmp_path / sweep / number / "report.json").read_text()) for sweep in ("late", "again")
        )
        assert late["fingerprints"] == again["fingerprints"]
        assert late["report"]["mnist"] == pytest.approx(again["report"]["mnist"], abs=1e-6)


@pytest.mark.parametrize("settings", [["group=off"], ["racing=on"], ["compile=default"], ["precision=bf16-true"]])
def test_what_does_not_go_with_groups_merges_nothing_early(tmp_path, start, merges, settings, capsys, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, mode: function)
    settings = [*SETTINGS, *settings, "store=off"]
    jobs = [["model.scaling=0.1"], ["model.scaling=0.2"]]
    start(jobs, settings)
    run(tmp_path, jobs, settings, range(1))
    assert len(merges) == 1


def test_a_merge_that_is_saved_is_made_in_its_turn(tmp_path, start, merges, capsys):
    settings = [*SETTINGS, "store=off"]
    jobs = [["model.scaling=0.1"], ["model.scaling=0.2"]]
    start(jobs, settings)
    run(tmp_path, jobs, settings, range(1))
    run(tmp_path, jobs, [*settings, f"save_merged={tmp_path / 'merged.safetensors'}"], range(1, 2))
    assert len(merges) == 3
    assert (tmp_path / "merged.safetensors").exists()


def test_early_merges_end_with_patience(start, merges, monkeypatch):
    monkeypatch.setattr(lookahead, "_PATIENCE", 0)
    jobs = [[f"model.scaling={scaling}"] for scaling in (0.1, 0.2, 0.3, 0.4)]
    start(jobs, [])
    cfg = compose(jobs[0])
    models = build(cfg.modelpool)
    lookahead.begin_job(0)
    assert len(list(lookahead.models_to_come(cfg, models))) == 1
    assert len(list(lookahead.models_to_come(cfg, models))) == 1  # which is kept
    assert len(merges) == 1
    lookahead.begin_job(1)
    assert len(list(lookahead.models_to_come(cfg, models))) == 1
    assert len(merges) == 2


def test_a_job_with_another_pool_is_left_to_itself(start, merges):
    start([[], ["model.scaling=0.2"]], [])
    cfg = compose()
    cfg.modelpool.base = "another"
    lookahead.begin_job(0)
    assert list(lookahead.models_to_come(cfg, None)) == []
    assert merges == []


def test_without_a_sweep_nothing_is_to_come(monkeypatch):
    monkeypatch.setattr(lookahead, "_sweep", [])
    assert lookahead.models_to_come(None, None) == ()
    assert lookahead.merged_ahead(None, None) is None
