"""Embedded data that another process built is what this one would build, whatever happened to it on disk."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest
import torch

from fusion_eval.data import DataCache, Embedded
from fusion_eval.data.embedded import kept, source
from fusion_eval.data.embedded.source import DATA_SETS, SPLITS
from fusion_eval.data.prepared import cache as cache_module
from fusion_eval.engine.prepare import load_samples
from fusion_eval.tasks import Classification

DIGESTS = {  # of the test splits before they were kept: results in stores are known by them
    "optdigits": "2cb1d2e666e27a3b83d130f23a15a5d0",
    "mnist": "1eea6099f307561f2d83deb7db2d887a",
    "scripts": "a0fc11475e0d1fdc8ebe00a69d807171",
    "textures": "c3b5b42519e4b5d7177468f31cc4578e",
}


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """`processes(name, split, mode)`: the samples that a new process would have, and whether it built them."""

    def start(name="optdigits", split="test", mode="disk", max_gb=1.0):
        monkeypatch.setattr(source, "_loaded", {})
        monkeypatch.setattr(cache_module, "_refused", set())
        builds = []
        build, classes = DATA_SETS[name]
        counted = {**DATA_SETS, name: (lambda asked: builds.append(asked) or build(asked), classes)}
        with monkeypatch.context() as patched:
            patched.setattr(source, "DATA_SETS", counted)
            return Embedded(name, split).load(DataCache(mode, str(tmp_path), max_gb)), bool(builds)

    return start


def stores(directory: Path) -> list[Path]:
    return [path for path in directory.glob("prepared/*/") if "." not in path.name]


def same(one, other):
    return (
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
        and one.inputs.dtype == other.inputs.dtype
        and one.inputs.stride() == other.inputs.stride()
        and one.targets.dtype == other.targets.dtype
        and one.class_names == other.class_names
        and one.fingerprint() == other.fingerprint()
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_what_is_kept_is_what_is_built(processes, name, split):
    expected = Embedded(name, split).load()
    (first, built), (second, built_again) = processes(name, split), processes(name, split)
    assert (built, built_again) == (True, False)
    assert same(first, expected)
    assert same(second, expected)


@pytest.mark.parametrize(("name", "digest"), DIGESTS.items())
def test_the_digest_is_the_one_it_always_was(name, digest):
    """A version of Pillow's FreeType that draws other grey levels may change that of `scripts`."""
    assert Embedded(name).load().fingerprint() == digest


def test_what_is_kept_may_be_written_to_as_what_is_built(processes, tmp_path):
    processes()
    samples, _ = processes()
    samples.inputs.zero_()
    samples.targets.zero_()
    again, built = processes()
    assert not built
    assert again.targets.any()


@pytest.mark.parametrize("mode", ["off", "memory"])
def test_without_a_cache_on_disk_it_is_built_and_nothing_is_written(processes, tmp_path, mode):
    assert processes(mode=mode)[1]
    assert processes(mode=mode)[1]
    assert list(tmp_path.iterdir()) == []


def test_within_a_process_it_is_loaded_once(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "_loaded", {})
    cache = DataCache("disk", str(tmp_path))
    assert Embedded("optdigits").load(cache) is Embedded("optdigits").load() is Embedded("optdigits").load(cache)


@pytest.mark.parametrize("file", ["0.values", "1.values", "description.json"])
@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: bytes([old[0] ^ 1]) + old[1:], None])
def test_what_is_damaged_is_built_again_with_a_warning(processes, tmp_path, caplog, file, damage):
    expected, _ = processes()
    [store] = stores(tmp_path)
    if damage is None:
        (store / file).unlink()
    else:
        (store / file).write_bytes(damage((store / file).read_bytes()))
    again, built = processes()
    assert built
    assert same(again, expected)
    assert "it is prepared again" in caplog.text
    assert not processes()[1]


@pytest.mark.parametrize("changed", ["code", "package", "unicode"])
def test_another_version_of_what_it_is_built_of_is_built_again(processes, monkeypatch, tmp_path, changed):
    processes()
    if changed == "code":
        (tmp_path / "code").mkdir()
        (tmp_path / "code/scripts.py").write_text("another way to draw")
        monkeypatch.setattr(kept, "__file__", str(tmp_path / "code/kept.py"))
    elif changed == "package":
        monkeypatch.setattr(kept, "installed_versions", lambda *names: dict.fromkeys(names, "0"))
    else:
        monkeypatch.setattr("unicodedata.unidata_version", "1.1.5")
    assert processes()[1]
    assert len(stores(tmp_path)) == 2


def test_no_room_and_no_directory_cost_no_run(processes, tmp_path, caplog):
    expected, _ = processes(mode="off")
    with caplog.at_level(logging.WARNING):
        found, built = processes(max_gb=1e-6)
    assert built
    assert same(found, expected)
    assert "data.cache.max_gb" in caplog.text
    (tmp_path / "prepared/room.lock").unlink()
    for file in (tmp_path / "prepared").iterdir():
        file.unlink()
    (tmp_path / "prepared").rmdir()
    (tmp_path / "prepared").write_text("in the way")
    found, built = processes()
    assert built
    assert same(found, expected)
    assert "data.cache.path" in caplog.text


def _load_in_process(directory, queue):
    torch.set_num_threads(1)  # those of a pool are missing in a fork
    source._loaded.clear()
    builds = []
    build, classes = source.DATA_SETS["optdigits"]
    source.DATA_SETS["optdigits"] = (lambda split: builds.append(split) or build(split), classes)
    samples = Embedded("optdigits").load(DataCache("disk", directory))
    queue.put((len(builds), samples.fingerprint()))


def test_of_processes_that_want_the_same_one_builds_it(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [context.Process(target=_load_in_process, args=(str(tmp_path), queue)) for _ in range(3)]
    for process in started:
        process.start()
    told = sorted(queue.get(timeout=60) for _ in started)
    for process in started:
        process.join()
    assert told == [(0, DIGESTS["optdigits"]), (0, DIGESTS["optdigits"]), (1, DIGESTS["optdigits"])]


def test_the_runner_hands_over_its_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "_loaded", {})
    task = Classification(Embedded("optdigits"), {"accuracy": torch.nn.Identity})
    load_samples(task, share=True, cache=DataCache("disk", str(tmp_path)))
    assert len(stores(tmp_path)) == 1
