"""The front end of the stored results; the other commands are run from a process in tests/e2e/test_leaderboard.py."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from fusion_eval.engine.store import DiskStore
from fusion_eval.engine.store_command import list_entries
from fusion_eval.report import TaskResult
from fusion_eval.report_cli import main


@pytest.fixture
def store(tmp_path):
    """Two results, evaluated now and 20 days ago."""
    disk = DiskStore(tmp_path / "store")
    for task, days in (("mnist", 0), ("cars", 20)):
        at = (datetime.now(timezone.utc) - timedelta(days=days)).isoformat(timespec="seconds")
        result = TaskResult({"accuracy": 0.25}, {}, "accuracy", count=10, seconds=2.5, evaluated_at=at)
        disk.get_or_run({"task": task}, lambda result=result: result, f"merged on {task}")
    return disk.directory


@pytest.fixture
def command(capsys):
    """`command(*arguments, code=0)`: what it prints."""

    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        assert (exit_.value.code or 0) == code
        return capsys.readouterr().out

    return run


def test_stored_results_are_listed_and_pruned(command, store):
    lines = command("store", "list", store).splitlines()
    assert [line.rpartition(" on ")[2] for line in lines] == ["cars", "mnist"]
    assert "accuracy 0.2500" in lines[0]
    assert command("store", "prune", store, "--older-than", "10") == "removed 1 results\n"
    assert len(list_entries(store)) == 1
    command("store", "prune", store, "--max-bytes", "0")
    assert command("store", "list", store) == f"{store}: no stored results\n"


def test_pruning_without_a_limit_says_what_the_limits_are(command, store):
    text = command("store", "prune", store)
    assert text.startswith("removed 0 results\n")
    assert "--older-than, --unused, --max-bytes and --damaged" in text
    assert len(list_entries(store)) == 2


def test_the_store_of_the_command_is_the_default(command, store, monkeypatch):
    monkeypatch.setenv("FUSION_EVAL_CACHE", str(store.parent))
    store.rename(store.parent / "results")
    assert command("store", "verify") == "2 results can be read, 0 cannot\n"


def test_a_damaged_result_makes_verify_fail(command, store):
    assert command("store", "verify", store) == "2 results can be read, 0 cannot\n"
    victim = list_entries(store)[0].path
    victim.write_bytes(victim.read_bytes()[:-40])
    text = command("store", "verify", store, code=1)
    assert f"FAILED  {victim}" in text
    assert "1 results can be read, 1 cannot" in text
    assert command("store", "prune", store, "--damaged") == "removed 1 results\n"


def test_a_directory_without_runs(command, tmp_path):
    command(
        "leaderboard", tmp_path,
        code=f"fusion-eval-report: error: {tmp_path}: no run: there is no report.json below",
    )  # fmt: skip


def test_an_age_that_is_no_number(capsys, store):
    with pytest.raises(SystemExit):
        main(["store", "prune", str(store), "--older-than", "old"])
    assert "argument --older-than: invalid days value: 'old'" in capsys.readouterr().err


def test_a_store_that_does_not_exist(command, tmp_path):
    command(
        "store", "list", tmp_path / "none", code=f"fusion-eval-report: error: {tmp_path / 'none'}: no such directory"
    )
