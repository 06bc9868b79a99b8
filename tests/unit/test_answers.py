"""A job that was done before is answered without a model, and any change that could change a number is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from fusion_eval import answers, compose
from fusion_eval.engine.note_file import read_note, write_note
from fusion_eval.engine.store import ResultStore
from fusion_eval.engine.store_command import list_entries, prune, verify_entries
from fusion_eval.errors import DataError
from fusion_eval.evaluation import evaluate
from fusion_eval.merging.memory import process_memory
from fusion_eval.models import ModelPool

SMALL = (
    *("limit=20", "bootstrap=0", "progress=false", "references=false"),
    *("~taskpool.tasks.scripts", "~taskpool.tasks.textures"),
)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path, store, monkeypatch):
    """`run(*overrides)`: a job, and how many models it merged; its checkpoints lie in `tmp_path`."""
    monkeypatch.setattr("fusion_eval.answers.SETTLED", -60.0)
    monkeypatch.setattr(process_memory, "limit", 10**9)  # as in a sweep
    for name, module in list(sys.modules.items()):  # what other tests wrote, and imported, is no code of this job
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if origin is not None and Path(origin).is_relative_to(tempfile.gettempdir()):
            monkeypatch.delitem(sys.modules, name)
    names = ("optdigits", "mnist")
    for name in ("base", *names):
        shutil.copy(files("fusion_eval.zoo") / f"{name}.safetensors", tmp_path)
    pool = [f"modelpool.base={tmp_path}/base.safetensors", "~modelpool.experts.scripts", "~modelpool.experts.textures"]
    pool += [f"modelpool.experts.{name}={tmp_path}/{name}.safetensors" for name in names]
    merged = []
    merge = ModelPool.merge
    monkeypatch.setattr(ModelPool, "merge", lambda *a, **k: merged.append(a[1]) or merge(*a, **k))

    def job(*overrides, directory="run"):
        merged.clear()
        monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())  # as in another process
        for remembered in ("reuse._references", "reuse._built", "answers._references"):
            monkeypatch.setattr(f"fusion_eval.{remembered}", {})
        cfg = compose([*SMALL, *pool, f"store.path={store}", f"data.cache.path={tmp_path}/cache", *overrides])
        return evaluate(cfg, tmp_path / directory), len(merged)

    return job


def notes(store):
    return sorted(store.glob("*/*.json"))


def contents(directory):
    """All files of a run, but for when and by which command."""
    found = {}
    for path in filter(os.path.isfile, directory.rglob("*")):
        found[path.relative_to(directory).as_posix()] = path.read_bytes()
    document = json.loads(found.pop("report.json"))
    for timed in ("started", "command"):
        document["provenance"].pop(timed)
    document.pop("digest")
    pages = [found.pop(page) for page in ("report.md", "report.html")]
    return document, found, [len(page) for page in pages]


def test_the_same_job_again_merges_nothing_and_writes_the_same(run, tmp_path, store, capsys):
    first = run("references=true")
    shown = capsys.readouterr().out.replace("/run/", "/two/")
    assert (first[1], len(notes(store))) == (4, 1)
    (tmp_path / "two/samples").mkdir(parents=True)
    (tmp_path / "two/samples/earlier.parquet").touch()
    assert run("references=true", directory="two") == (first[0], 0)
    assert capsys.readouterr().out == shown
    assert contents(tmp_path / "run") == contents(tmp_path / "two")
    loss, merges = run("references=true", "batch_size=7", "objective=mean.loss")
    assert (loss, merges) == (
        json.loads((tmp_path / "run/report.json").read_text())["aggregates"]["mean"]["loss"]["value"],
        0,
    )


def test_a_report_that_says_the_same_is_left_alone(run, tmp_path, capsys):
    score, _ = run()
    directory = tmp_path / "run"
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run() == (score, 0)
    assert capsys.readouterr().out == f"{directory}/report.json, as it was\n"
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "report.json").write_bytes(
            (run / "report.json").read_bytes().replace(b"mnist", b"mnisT", 1)
        ),
        lambda run: (run / "report.json").unlink(),
        lambda run: (run / "report.html").unlink(),
        lambda run: (run / "samples/mnist.parquet").unlink(),
        lambda run: (run / "samples/mnist.parquet").write_bytes((run / "samples/optdigits.parquet").read_bytes()),
        lambda run: (run / "samples/more.parquet").touch(),
    ],
)
def test_a_report_that_was_touched_is_written_again(run, tmp_path, capsys, change):
    score, _ = run()
    first = contents(tmp_path / "run")
    change(tmp_path / "run")
    capsys.readouterr()
    assert run() == (score, 0)
    assert "as it was" not in capsys.readouterr().out
    assert contents(tmp_path / "run") == first


def test_a_report_of_another_config_is_not_taken_for_this_ones(run, tmp_path):
    score, _ = run()
    for _ in range(2):
        loss, merges = run("objective=mean.loss")
        assert (loss != score, merges) == (True, 0)
    for scaling in (0.1, 0.2, 0.1, 0.2):  # into one directory
        run(f"model.scaling={scaling}")
        report = json.loads((tmp_path / "run/report.json").read_text())
        assert report["provenance"]["config"]["model"]["scaling"] == scaling
    assert run() == (score, 0)


def test_another_byte_at_the_same_path_is_another_job(run, tmp_path):
    loss, _ = run("objective=mean.loss")
    expert = tmp_path / "mnist.safetensors"
    before = expert.stat()
    content = bytearray(expert.read_bytes())
    content[-2] ^= 0x40
    expert.write_bytes(content)
    os.utime(expert, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, merges = run("objective=mean.loss")
    assert merges == 1
    assert found != loss
    assert run("objective=mean.loss") == (found, 0)


def test_another_setting_is_another_job_and_the_same_content_elsewhere_is_found_in_the_store(run, tmp_path, store):
    score, _ = run()
    for override in ("model.scaling=0.31", "seed=1", "model=average"):
        assert run(override)[1] == 1
        assert run(override)[1] == 0
    assert run() == (score, 0)
    known = len(list_entries(store))
    shutil.copy(tmp_path / "mnist.safetensors", tmp_path / "copy.safetensors")
    elsewhere = f"modelpool.experts.mnist={tmp_path}/copy.safetensors"
    assert run(elsewhere) == (score, 1)
    assert len(list_entries(store)) == known
    assert run(elsewhere)[1] == 0


def test_other_code_and_other_packages_are_another_job(run, tmp_path, monkeypatch):
    run()
    package = tmp_path / "package"
    (package / "merging").mkdir(parents=True)
    code = package / "merging/ties.py"
    code.write_text("density = 1")
    monkeypatch.setattr(answers, "__file__", str(package / "answers.py"))
    seen = [answers._surroundings.__wrapped__()]
    code.write_text("density = 2")
    seen.append(answers._surroundings.__wrapped__())
    (tmp_path / "site/torch-9.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    seen.append(answers._surroundings.__wrapped__())
    assert len(set(map(repr, seen))) == 3
    monkeypatch.setattr(answers, "_surroundings", lambda: seen[0])
    assert run()[1] > 0


def test_what_was_changed_a_moment_ago_may_change_again_unseen(run, store, monkeypatch):
    monkeypatch.setattr("fusion_eval.answers.SETTLED", 60.0)
    run()
    assert notes(store) == []


def test_code_that_was_edited_since_the_process_began_is_not_what_it_ran(run, store, monkeypatch):
    monkeypatch.setattr("fusion_eval.answers._STARTED", 0.0)
    run()
    assert notes(store) == []


@pytest.mark.parametrize(
    "override",
    [
        ("model=fisher", "calibration.samples=4", "+modelpool@calibration.models=embedded"),
        ("save_merged=merged.safetensors",),
        ("data.resident=off",),
        ("racing=on",),
        ("+modelpool.leave_out=[someone/model]",),
    ],
)
def test_what_depends_on_more_than_is_known_is_not_noted(run, store, override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("audit=false", *override)
    assert notes(store) == []


def test_a_merge_with_data_is_another_one_with_other_data(run, tmp_path):
    few = ("model=fisher", "calibration.samples=4")
    score, merges = run(*few)
    record = json.loads((tmp_path / "run/report.json").read_text())["merge"]
    assert (merges, run(*few, directory="two")) == (1, (score, 0))
    assert json.loads((tmp_path / "two/report.json").read_text())["merge"] == record != {}
    for override in ("calibration.samples=5", "calibration.seed=1", "calibration.split=val"):
        assert run(*few, override)[1] == 1


def test_a_changed_file_of_calibration_data_is_noticed(run, tmp_path):
    random, file = np.random.default_rng(0), tmp_path / "train.npz"
    job = ["model=fisher", "calibration.samples=4"]
    for task in ("mnist", "optdigits"):
        job += [f"+dataset@calibration.data.{task}=arrays", f"calibration.data.{task}.inputs={file}"]
        job += [f"calibration.data.{task}.class_names=[{','.join('abcdefghij')}]"]
    for _ in range(2):
        images = random.random((40, 3, 32, 32), dtype=np.float32)
        np.savez(file, inputs=images, targets=random.integers(0, 10, 40))
        assert [run(*job)[1], run(*job)[1]] == [1, 0]


def test_a_job_of_several_processes_is_not_answered_by_each(run, monkeypatch):
    run()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert answers.recall(compose([*SMALL])) is None
    assert run()[1] == 1


def test_store_off_neither_reads_nor_writes(run, tmp_path, store):
    run()
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert run("store.path=null")[1] == 1
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_damaged_note_is_reported_not_believed_and_written_anew(run, store):
    score, _ = run()
    [note] = notes(store)
    whole = note.read_bytes()
    for damaged in (b"}" + whole[1:], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], whole[:-40], b""):
        note.write_bytes(damaged)
        assert list(verify_entries(store)) == [note]
        with pytest.raises(DataError):
            read_note(note)
    assert run() == (score, 1)
    assert verify_entries(store) == {}
    assert run() == (score, 0)
    note.write_bytes(whole[:-40])
    assert prune(store, damaged=True) == []
    assert notes(store) == []


def test_a_killed_writer_leaves_no_note_and_a_lost_result_is_evaluated_again(run, store):
    score, _ = run()
    [note] = notes(store)
    note.rename(note.with_name(".half.tmp"))
    assert run() == (score, 1)
    for name, damage in {"lost": lambda path: path.unlink(), "broken": lambda path: path.write_bytes(b"zip")}.items():
        damage(next(entry.path for entry in list_entries(store) if entry.label == "merged on mnist"))
        assert run(directory=name) == (score, 1)
        assert run() == (score, 0)


def test_notes_are_pruned_with_the_results_they_name(run, store):
    run()
    run("model.scaling=0.4")
    victim = next(entry.path for entry in list_entries(store) if entry.label == "merged on mnist")
    naming = [note for note in notes(store) if victim.stem in read_note(note).keys]
    victim.unlink()
    assert (prune(store), len(naming)) == ([], 1)
    assert naming[0] not in notes(store)
    assert len(notes(store)) == 1
    assert len(prune(store, max_bytes=0)) > 0
    assert notes(store) == []


def test_writers_at_the_same_time_leave_one_whole_note(run, store):
    run()
    [path] = notes(store)
    note = read_note(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: write_note(path, note), range(32)))
    assert read_note(path) == note
    assert [file for file in store.rglob("*") if file.suffix not in (".zip", ".json") and file.is_file()] == []
    assert run()[1] == 0


def test_answers_need_no_torch():
    code = (
        "import sys, fusion_eval.evaluation, fusion_eval.report, fusion_eval.report.page, fusion_eval.engine.note_file,"
        " fusion_eval.engine.record_file, numpy as np; from fusion_eval.report.samples import *;"
        " decode_samples(encode_samples({'index': np.arange(3), 'correct': np.ones(3, bool), 'loss': np.ones(3)}));"
        " sys.exit(', '.join({'torch', 'lightning', 'pandas'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
    )
