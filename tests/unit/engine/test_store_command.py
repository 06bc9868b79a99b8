from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from filelock import FileLock

from fusion_eval.engine.store import DiskStore
from fusion_eval.engine.store_command import list_entries, prune, verify_entries
from fusion_eval.report import TaskResult

NOW = datetime.now(timezone.utc)


@pytest.fixture
def store(tmp_path):
    """Three results, evaluated 0, 10 and 20 days ago, and last used 5, 0 and 15 days ago."""
    disk = DiskStore(tmp_path / "store")
    for task, evaluated, used in (("mnist", 0, 5), ("dtd", 10, 0), ("cars", 20, 15)):
        result = TaskResult(
            {"accuracy": evaluated / 100},
            {},
            "accuracy",
            count=1000,
            seconds=2.5,
            samples={"noise": np.random.default_rng(evaluated).normal(size=1000)},
            evaluated_at=(NOW - timedelta(days=evaluated)).isoformat(timespec="seconds"),
        )
        disk.get_or_run({"task": task}, lambda result=result: result, f"merged on {task}")
        entry = next(entry for entry in list_entries(disk.directory) if entry.label.endswith(task))
        stamp = time.time() - used * 86400
        os.utime(entry.path, (stamp, stamp))
    return disk


def labels(store):
    return [entry.label.removeprefix("merged on ") for entry in list_entries(store.directory)]


def test_entries_are_listed_from_the_oldest(store):
    assert labels(store) == ["cars", "dtd", "mnist"]
    cars = list_entries(store.directory)[0]
    assert (cars.primary, cars.score, cars.count, cars.seconds) == ("accuracy", 0.2, 1000, 2.5)
    assert cars.bytes == cars.path.stat().st_size > 8000
    assert timedelta(days=19) < NOW - cars.evaluated_at < timedelta(days=21)
    assert timedelta(days=14) < NOW - cars.used_at < timedelta(days=16)


def test_no_directory_is_an_empty_store(tmp_path):
    missing = tmp_path / "none"
    assert (list_entries(missing), verify_entries(missing), prune(missing, max_bytes=0)) == ([], {}, [])


def test_verify_names_what_is_damaged_and_prune_removes_it_on_demand(store):
    assert verify_entries(store.directory) == {}
    victim = list_entries(store.directory)[1].path
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    [(path, problem)] = verify_entries(store.directory).items()
    assert path == victim
    assert "damaged" in problem
    assert prune(store.directory) == []
    assert prune(store.directory, damaged=True) == [victim]
    assert not victim.exists()
    assert labels(store) == ["cars", "mnist"]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, ["cars", "dtd", "mnist"]),
        ({"older_than": timedelta(days=5)}, ["mnist"]),
        ({"older_than": timedelta(days=15)}, ["dtd", "mnist"]),
        ({"unused": timedelta(days=3)}, ["dtd"]),
        ({"max_bytes": 10**6}, ["cars", "dtd", "mnist"]),
        ({"max_bytes": 25_000}, ["dtd", "mnist"]),
        ({"max_bytes": 12_000}, ["dtd"]),
        ({"max_bytes": 0}, []),
        ({"older_than": timedelta(days=15), "max_bytes": 12_000}, ["dtd"]),
    ],
)
def test_prune_keeps_to_its_limits(store, limits, left):
    removed = prune(store.directory, **limits)
    assert labels(store) == left
    assert len(removed) == 3 - len(left)
    assert not any(path.exists() for path in removed)


def test_reading_a_result_keeps_it_from_being_pruned_as_unused(store):
    store.get_or_run({"task": "cars"}, lambda: pytest.fail("evaluated again"), "")
    prune(store.directory, unused=timedelta(days=3))
    assert labels(store) == ["cars", "dtd"]


def test_what_killed_processes_left_goes_and_what_is_in_use_stays(store):
    folder = store.directory / "ab"
    folder.mkdir(exist_ok=True)
    names = ("old.lock", "new.lock", "held.lock", ".old.tmp", ".new.tmp")
    for name in names:
        (folder / name).touch()
    for name in ("old.lock", "held.lock", ".old.tmp"):
        os.utime(folder / name, (0, 0))
    with FileLock(folder / "held.lock"):
        os.utime(folder / "held.lock", (0, 0))
        prune(store.directory)
    assert {path.name for path in folder.iterdir() if path.suffix != ".zip"} == {"new.lock", "held.lock", ".new.tmp"}
