"""What goes wrong half-way costs nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

BROKEN = (
    "+task@taskpool.tasks.broken=classification",
    "dataset@taskpool.tasks.broken.data=arrays",
    "taskpool.tasks.broken.data.inputs=broken.npz",
    "+task@taskpool.tasks.last=optdigits",
)


@pytest.fixture
def broken_file(tmp_path):
    np.savez(tmp_path / "broken.npz", inputs=np.zeros((5, 3, 32, 32), np.float32), targets=np.array([0, 1, 2, 3, 99]))


@pytest.mark.usefixtures("broken_file")
def test_record_runs_the_other_tasks_and_exits_with_an_error(fusion_eval, quick, tmp_path):
    done = fusion_eval(*quick, *BROKEN, "on_error=record", "hydra.run.dir=run", ok=False)
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert document["status"] == "partial"
    assert list(document["report"]) == ["optdigits", "mnist", "scripts", "textures", "last"]
    assert set(document["failures"]) == {"broken"}
    assert document["failures"]["broken"]["message"] in done.stderr
    assert document["aggregates"] == {}
    assert "1 failed: broken: " in done.stderr


@pytest.mark.usefixtures("broken_file")
def test_raise_stops_there_and_keeps_what_was_done(fusion_eval, quick, tmp_path):
    fusion_eval(*quick, *BROKEN, "on_error=raise", "hydra.run.dir=run", ok=False)
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert document["status"] == "partial"
    assert list(document["report"]) == ["optdigits", "mnist", "scripts", "textures"]
    assert (tmp_path / "run/samples/textures.parquet").exists()
    assert not (tmp_path / "run/samples/last.parquet").exists()


@pytest.mark.parametrize("killed_after", ["optdigits", "mnist"])
def test_kill_9_leaves_whole_files_and_the_finished_tasks(tmp_path, environment, killed_after):
    command = [sys.executable, "-m", "fusion_eval", "hydra.run.dir=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if f"merged on {killed_after}" in line:
            break
    finished = tmp_path / "run/samples" / f"{killed_after}.parquet"
    while not finished.exists():
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert document["status"] == "running"
    assert killed_after in document["report"]
    for task in document["report"]:
        assert pq.read_table(tmp_path / "run/samples" / f"{task}.parquet").num_rows == document["counts"][task]
    for path in (tmp_path / "run/samples").glob("*.parquet"):
        pq.read_table(path)


def test_a_missing_expert_is_recorded_and_the_other_references_are_kept(fusion_eval, tmp_path):
    settings = ("limit=41", "bootstrap=0", "model=base", "hydra.run.dir=run")
    done = fusion_eval(*settings, "modelpool.experts.mnist=gone.safetensors", ok=False)
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert document["status"] == "partial"
    assert list(document["report"]) == list(document["references"]["base"])
    assert list(document["references"]["experts"]) == ["optdigits", "scripts", "textures"]
    assert any("gone.safetensors" in warning for warning in document["warnings"])
    assert "expert on mnist" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_run_says_so_and_keeps_what_was_done(tmp_path, environment):
    command = [sys.executable, "-m", "fusion_eval", "hydra.run.dir=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "merged on optdigits" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "interrupted" in said
    assert "Traceback" not in said
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert document["status"] == "partial"
    assert "optdigits" in document["report"]
