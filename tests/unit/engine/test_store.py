from __future__ import annotations

import logging
import multiprocessing
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fusion_eval.engine import store as store_module
from fusion_eval.engine.record_file import read_record
from fusion_eval.engine.store import DiskStore, ResultStore
from fusion_eval.errors import TaskError
from fusion_eval.report import TaskResult

RESULT = TaskResult(
    {"accuracy": 0.75},
    {"accuracy": 0.1},
    "accuracy",
    count=4,
    seconds=0.1,
    samples={"index": np.arange(4)},
    scores=np.array([True, True, True, False]),
)
KEY = {"weights": "a"}


@pytest.fixture
def disk(tmp_path):
    store_module._warn_once.cache_clear()
    return DiskStore(tmp_path / "store")


def never():
    raise AssertionError("evaluated again")


def files(disk):
    return [path for path in disk.directory.rglob("*") if path.is_file()]


def test_a_store_knows_what_was_put_under_a_key_and_nothing_else():
    store, other = ResultStore(), ResultStore()
    assert store.get("a") is None
    store.put("a", RESULT)
    assert store.get("a") is RESULT
    assert store.get("b") is None
    assert other.get("a") is None


def test_what_is_on_disk_is_not_evaluated_again_and_leaves_one_file(disk):
    assert disk.get_or_run(KEY, lambda: RESULT, "merged on mnist") is RESULT
    again = disk.get_or_run(KEY, never, "expert on mnist")
    assert (again.metrics, again.standard_errors, again.seconds) == (RESULT.metrics, RESULT.standard_errors, 0.1)
    assert np.array_equal(again.scores, RESULT.scores)
    [file] = files(disk)
    assert read_record(file).depends_on == KEY


@pytest.mark.parametrize("other", [{"weights": "b"}, {"weights": "a", "seed": 0}, {}])
def test_another_dependency_is_another_result(disk, other):
    disk.get_or_run(KEY, lambda: RESULT, "")
    assert disk.get_or_run(other, lambda: replace(RESULT, seconds=9.0), "").seconds == 9.0
    assert disk.get_or_run(KEY, never, "").seconds == 0.1


def test_a_damaged_entry_is_reported_evaluated_again_and_replaced(disk, caplog):
    disk.get_or_run(KEY, lambda: RESULT, "")
    [file] = files(disk)
    file.write_bytes(file.read_bytes()[:-20])
    assert disk.get_or_run(KEY, lambda: replace(RESULT, seconds=9.0), "").seconds == 9.0
    assert any(f"{file} is damaged" in message and "evaluated again" in message for message in caplog.messages)
    caplog.clear()
    assert disk.get_or_run(KEY, never, "").seconds == 9.0
    assert not caplog.messages


def test_a_failure_is_not_kept_and_lets_the_next_one_try(disk):
    def fail():
        raise TaskError("no samples")

    with pytest.raises(TaskError):
        disk.get_or_run(KEY, fail, "")
    assert disk.get_or_run(KEY, lambda: RESULT, "") is RESULT


def test_a_store_that_cannot_be_made_costs_one_warning_and_no_result(tmp_path, caplog):
    store_module._warn_once.cache_clear()
    (tmp_path / "file").touch()
    disk = DiskStore(tmp_path / "file" / "store")
    for seed in range(3):
        assert disk.get_or_run({"seed": seed}, lambda: RESULT, "") is RESULT
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{disk.directory} fails" in caplog.messages[0]
    assert caplog.messages[0].endswith(": Not a directory")


def test_a_full_disk_costs_one_warning_and_no_result(disk, caplog):
    """RLIMIT_FSIZE makes a write fail in the middle of a file, as a full disk does."""
    noise = np.random.default_rng(0).normal(size=50_000)
    large = TaskResult({"x": 0.0}, {}, "x", count=len(noise), seconds=1.0, samples={"noise": noise})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for seed in range(2):
            assert disk.get_or_run({"seed": seed}, lambda: large, "") is large
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(": File too large")
    assert {file.suffix for file in files(disk)} == {".lock"}
    disk.get_or_run({"seed": 0}, lambda: large, "")
    assert np.array_equal(disk.get_or_run({"seed": 0}, never, "").samples["noise"], noise)


def test_a_column_that_cannot_be_written_costs_no_result(disk, caplog):
    strange = replace(RESULT, samples={"z": np.zeros(4, dtype=complex)})
    assert disk.get_or_run(KEY, lambda: strange, "") is strange
    assert f"{disk.directory} fails" in caplog.text


def test_threads_evaluate_a_key_once(disk):
    calls = []

    def evaluate():
        calls.append(threading.get_ident())
        time.sleep(0.1)
        return RESULT

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: disk.get_or_run(KEY, evaluate, ""), range(8)))
    assert len(calls) == 1
    assert {result.score for result in results} == {0.75}


def _evaluate_all(disk, order, log):
    def evaluate(key):
        with log.open("a") as file:
            file.write(f"{key}\n")
        time.sleep(0.02)
        return replace(RESULT, seconds=float(key))

    found = [disk.get_or_run({"key": key}, lambda key=key: evaluate(key), "").seconds for key in order]
    assert found == order


def test_processes_share_the_work_and_do_nothing_twice(disk, tmp_path):
    keys, log = list(range(12)), tmp_path / "log"
    orders = [keys, keys[::-1], keys[::2] + keys[1::2]]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_evaluate_all, args=(disk, order, log)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(map(int, log.read_text().split())) == keys
    assert len(files(disk)) == len(keys)


def test_the_second_waits_for_the_holder_but_not_for_one_that_was_killed(disk):
    fork = multiprocessing.get_context("fork")
    holding = fork.Event()

    def hold():
        holding.set()
        time.sleep(600)

    holder = fork.Process(target=disk.get_or_run, args=(KEY, hold, ""))
    holder.start()
    assert holding.wait(60)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(disk.get_or_run, KEY, lambda: RESULT, "")
        time.sleep(0.3)
        assert not waiting.done()
        holder.kill()
        assert waiting.result(timeout=10) is RESULT
    holder.join()


def test_one_that_waits_long_asks_again(disk, monkeypatch):
    monkeypatch.setattr(store_module, "_PATIENCE", 0.05)

    def evaluate():
        time.sleep(0.5)
        return RESULT

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(disk.get_or_run, KEY, evaluate, "")
        time.sleep(0.1)
        second = threads.submit(disk.get_or_run, KEY, never, "")
        assert first.result() is RESULT
        assert second.result().score == RESULT.score
