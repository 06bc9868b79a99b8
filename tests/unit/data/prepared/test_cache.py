"""Prepared samples are what the samples are, whatever happens to the directory they are in."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from fusion_eval.data import DataCache, Samples
from fusion_eval.data.prepared import build, cache
from fusion_eval.errors import ConfigError, DataError


class Numbers(Samples):
    """Items of one shape, which take `1000 * n` bytes and a target; counts how often one is made."""

    def __init__(self, n=10, first=0, fails_at=None, error=None):
        self.n, self.first, self.fails_at, self.error, self.made = n, first, fails_at, error, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index == self.fails_at:
            raise self.error
        self.made += 1
        generator = torch.Generator().manual_seed(self.first + index)
        return torch.randint(0, 256, (10, 100), dtype=torch.uint8, generator=generator), index % 3

    def fingerprint(self):
        return f"{self.n} {self.first}"


class Texts(Numbers):
    """Items that differ in length, with answers as targets."""

    def __getitem__(self, index):
        self.made += 1
        return {"ids": torch.arange(index), "mask": torch.ones(index, 2, dtype=torch.bool)}, [f"ä{index}", None]


class Changing(Numbers):
    """Items that differ in kind."""

    def __getitem__(self, index):
        return torch.zeros(3) if index else 0.0, index


def opened(where, samples, indices=None, mode="disk", max_gb=1.0, identity=None):
    indices = np.arange(len(samples)) if indices is None else np.array(indices)
    told = []
    store = DataCache(mode, str(where), max_gb).open(
        samples, indices, identity or [type(samples).__name__, samples.fingerprint()], told.append
    )
    return store, sum(told)


def same_items(store, samples, indices=None):
    for row, index in enumerate(range(len(samples)) if indices is None else indices):
        (inputs, target), (stored, stored_target) = samples[index], store.item(row)
        assert type(stored_target) is type(target)
        assert stored_target == target
        parts, stored_parts = ([*x.values()] if isinstance(x, dict) else [x] for x in (inputs, stored))
        assert [part.dtype for part in stored_parts] == [part.dtype for part in parts]
        assert all(map(torch.equal, stored_parts, parts))
    return True


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(cache, "_refused", set())
    monkeypatch.setattr(cache, "_memory", cache.Memory())


@pytest.fixture
def files(tmp_path):
    """Those of the only store."""

    def find(name="*"):
        return sorted(path for path in (tmp_path / "prepared").glob(f"*/{name}") if "." not in path.parent.name)

    return find


@pytest.mark.parametrize("mode", ["disk", "memory"])
@pytest.mark.parametrize("kind", [Numbers, Texts])
@pytest.mark.parametrize("indices", [None, [1, 4, 5, 8]])
def test_what_is_prepared_is_what_the_samples_are(tmp_path, mode, kind, indices):
    samples = kind(9)
    store, told = opened(tmp_path, samples, indices, mode)
    assert len(store) == told == samples.made == len(indices or range(9))
    assert same_items(store, samples, indices)
    made = samples.made
    again, told = opened(tmp_path, samples, indices, mode)
    assert same_items(again, samples, indices)
    assert told == 0
    assert (samples.made - made) == len(again)  # by the comparison alone


@pytest.mark.parametrize("rows", [[0, 1, 2], [8], [5, 0, 5], list(range(9))])
def test_a_batch_is_what_torch_collates(tmp_path, rows):
    samples = Numbers(9)
    store, _ = opened(tmp_path, samples)
    for batch, expected in zip(
        store.batch(np.array(rows)), default_collate([samples[row] for row in rows]), strict=True
    ):
        assert batch.dtype == expected.dtype
        assert torch.equal(batch, expected)
    batch, _ = store.batch(np.array(rows))
    batch.zero_()  # a model may write into its input
    assert same_items(store, samples)


def test_several_processes_make_the_same_in_the_same_order(tmp_path, monkeypatch):
    samples, state = Numbers(500), torch.random.get_rng_state()
    monkeypatch.setattr(build, "_WORTH_IT", 1e-9)
    monkeypatch.setattr(build, "usable_cpus", lambda: 2)
    store, told = opened(tmp_path, samples)
    assert samples.made == 1 + 64  # the first two pieces; others were made elsewhere
    assert told == 500
    assert same_items(store, samples)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("processes", [0, 2])
def test_a_broken_sample_is_an_error_with_its_own_message_and_leaves_nothing(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(build, "_WORTH_IT", 1e-9)
    monkeypatch.setattr(build, "usable_cpus", lambda: processes)
    with pytest.raises(DataError, match=r"^image 170 is damaged$"):
        opened(tmp_path, Numbers(300, fails_at=170, error=DataError("image 170 is damaged")))
    assert not [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]


def test_an_error_of_the_system_in_a_sample_is_not_one_of_the_cache(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        opened(tmp_path, Numbers(fails_at=3, error=FileNotFoundError("elsewhere")))


def test_samples_that_differ_in_kind_are_used_as_they_are(tmp_path, caplog):
    assert opened(tmp_path, Changing())[0] is None
    assert not [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_another_content_code_or_selection_is_another_store(tmp_path, files):
    for arguments in ((Numbers(), None, None), (Numbers(), [1, 2], None), (Numbers(), [1, 3], None)):
        opened(tmp_path, *arguments[:2])
    opened(tmp_path, Numbers(first=1))
    opened(tmp_path, Numbers(), identity="another version of the code")
    assert len(files("description.json")) == 5


# Damage


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as opened_file:
        opened_file.write(content)


def flip_quietly(file):
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [cut, flip, flip_quietly, Path.unlink])
@pytest.mark.parametrize("name", ["0.values", "1.values", "0.shapes", "description.json"])
def test_what_is_damaged_is_made_again_with_a_warning(tmp_path, files, caplog, damage, name):
    samples = Texts(9)
    store, _ = opened(tmp_path, samples)
    del store
    [file] = files(name)
    if name == "description.json" and damage in (flip, flip_quietly):
        file.write_bytes(b"\xff{")
    else:
        damage(file)
    store, told = opened(tmp_path, samples)
    assert told == 9
    assert same_items(store, samples)
    assert "it is prepared again" in caplog.text


def test_a_copied_or_touched_store_is_looked_at_and_then_trusted(tmp_path, files, monkeypatch):
    samples = Numbers()
    opened(tmp_path, samples)
    for file in files():
        file.touch()
    looked = []
    whole = cache.open_store.__globals__["_is_whole"]
    monkeypatch.setitem(cache.open_store.__globals__, "_is_whole", lambda *a: looked.append(a) or whole(*a))
    assert opened(tmp_path, samples)[1] == 0
    assert len(looked) == 2
    assert opened(tmp_path, samples)[1] == 0
    assert len(looked) == 2


def test_what_a_killed_process_left_is_cleared_away(tmp_path, files):
    program = f"""
        import numpy as np, os, torch
        from fusion_eval.data import DataCache, Samples
        class Slow(Samples):
            def __len__(self): return 1000
            def __getitem__(self, index):
                if index == 500: os._exit(9)
                return torch.zeros(1000), 0
            def fingerprint(self): return ""
        DataCache("disk", {str(tmp_path)!r}).open(Slow(), np.arange(1000), ["Numbers", "10 0"], lambda done: None)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode == 9
    assert [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    assert not files()
    store, told = opened(tmp_path, Numbers())
    assert told == 10
    assert same_items(store, Numbers())
    assert len([path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]) == 1


def test_a_directory_that_cannot_be_written_costs_no_run(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert opened(tmp_path / "file", Numbers())[0] is None
    assert opened(tmp_path / "file", Numbers())[0] is None
    assert caplog.text.count("samples are made anew each time: data.cache.path=") == 1


def test_a_full_disk_costs_no_run(tmp_path, caplog, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", **k: Full() if self.suffix == ".values" else real(self, mode, **k)
    )
    assert opened(tmp_path, Numbers())[0] is None
    assert "No space left" in caplog.text
    assert not [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]


# Room


def test_what_was_used_least_recently_makes_room(tmp_path, files):
    for first in range(3):
        opened(tmp_path, Numbers(first=first), max_gb=5e-5)  # 10 kB and a little each
    marks = files("used")
    assert len(marks) == 3
    kept = opened(tmp_path, Numbers(first=0), max_gb=5e-5)[1]
    assert kept == 0
    oldest = min(marks, key=lambda mark: mark.stat().st_mtime)
    for age, mark in enumerate(sorted(marks, key=lambda mark: -mark.stat().st_mtime)):
        os.utime(mark, (1000 - age, 1000 - age))
    opened(tmp_path, Numbers(first=3), max_gb=4e-5)
    assert oldest not in files("used")
    assert len(files("used")) == 3
    assert sum(file.stat().st_size for file in files()) < 4e4


def test_what_is_in_use_is_not_removed_and_what_is_too_large_is_not_kept(tmp_path, files, caplog):
    samples = Numbers()
    store, _ = opened(tmp_path, samples, max_gb=1.5e-5)
    assert opened(tmp_path, Numbers(first=1), max_gb=1.5e-5)[0] is None
    assert "they take more than data.cache.max_gb=1.5e-05" in caplog.text
    assert same_items(store, samples)
    del store
    assert opened(tmp_path, Numbers(first=2), max_gb=1.5e-5)[0] is not None
    assert len(files("used")) == 1


def test_stores_in_memory_make_room_for_each_other():
    samples = [Numbers(first=first) for first in range(3)]
    for one in samples:
        opened("unused", one, mode="memory", max_gb=2.5e-5)
    assert [opened("unused", one, mode="memory", max_gb=2.5e-5)[1] for one in (samples[2], samples[1], samples[0])] == [
        0,
        0,
        10,
    ]
    assert opened("unused", Numbers(100), mode="memory", max_gb=2.5e-5)[0] is None


def _open_in_process(where, queue):
    samples = Numbers(300)
    store, told = opened(where, samples)
    queue.put((told, same_items(store, samples)))


def test_of_two_processes_that_want_the_same_one_makes_it(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_open_in_process, args=(tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=60) for _ in processes) == [(0, True), (0, True), (300, True)]
    for process in processes:
        process.join()


def test_a_store_larger_than_the_memory_allowed_is_made_and_read(tmp_path):
    program = f"""
        import numpy as np, resource, torch
        from fusion_eval.data import DataCache, Samples
        class Large(Samples):
            def __init__(self, items): self.items = items
            def __len__(self): return self.items
            def __getitem__(self, index): return torch.full((200_000,), index, dtype=torch.int32), index
            def fingerprint(self): return ""
        def make_and_read(items):
            cache = DataCache("disk", {str(tmp_path)!r}, 10)
            store = cache.open(Large(items), np.arange(items), str(items), lambda done: None)
            for start in range(0, items, 20):
                inputs, targets = store.batch(np.arange(start, min(start + 20, items)))
                assert torch.equal(inputs[:, 7], targets.int())
            return store.nbytes
        make_and_read(60)  # threads, imports and arenas are there once and for all: they are not what is limited
        for line in open("/proc/self/status"):
            if line.startswith("VmData"):
                used = int(line.split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + 160_000_000,) * 2)
        assert make_and_read(400) > 320_000_000
        try:
            torch.empty(320_000_000, dtype=torch.uint8).fill_(1)
        except RuntimeError:
            print("too much")
    """
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back, and does not count
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, env=settings
    )
    assert ran.stdout == "too much\n", ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "ram"}, "data.cache.mode: expected disk, memory or off; found 'ram'"),
        ({"max_gb": 0}, "data.cache.max_gb: expected a positive number of gigabytes, found 0"),
        ({"max_gb": "50"}, "data.cache.max_gb: expected a positive number of gigabytes, found '50'"),
        ({"max_gb": float("nan")}, "data.cache.max_gb: expected a positive number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DataCache(**arguments)


def test_off_stores_nothing(tmp_path):
    assert opened(tmp_path, Numbers(), mode="off")[0] is None
    assert list(tmp_path.iterdir()) == []
