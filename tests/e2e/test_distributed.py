"""Two processes give what one gives."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

DDP = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def test_two_processes_equal_one(fusion_eval, started_alone, tmp_path):
    fusion_eval("hydra.run.dir=one")
    done = started_alone("store=off", "hydra.run.dir=two", *DDP)
    one, two = (json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two"))
    assert done.stderr.count("merged on mnist") == 1
    assert one["counts"] == two["counts"]
    assert any(count % 2 for count in one["counts"].values())
    for task, metrics in one["report"].items():
        assert two["report"][task]["accuracy"] == metrics["accuracy"]
        assert two["report"][task] == pytest.approx(metrics, abs=1e-6)
        assert two["standard_errors"][task] == pytest.approx(one["standard_errors"][task], abs=1e-6)
        left, right = (pq.read_table(tmp_path / run / "samples" / f"{task}.parquet") for run in ("one", "two"))
        for column in ("index", "target", "prediction"):
            assert left[column].equals(right[column])
        for column in ("loss", "confidence"):
            np.testing.assert_allclose(left[column].to_numpy(), right[column].to_numpy(), atol=1e-6)
    assert two["aggregates"]["mean"]["accuracy"] == one["aggregates"]["mean"]["accuracy"]


def test_an_error_on_one_rank_is_recorded_on_all_and_the_rest_runs(fusion_eval, quick, tmp_path):
    targets = np.zeros(41, dtype=np.int64)
    targets[40 - 1] = 99  # an odd index: only rank 1 sees it
    np.savez(tmp_path / "broken.npz", inputs=np.zeros((41, 3, 32, 32), np.float32), targets=targets)
    fusion_eval(
        *quick,
        *DDP,
        "hydra.run.dir=run",
        "on_error=record",
        "dataset@taskpool.tasks.mnist.data=arrays",
        "taskpool.tasks.mnist.data.inputs=broken.npz",
        "+taskpool.tasks.mnist.num_classes=10",
        ok=False,
    )
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert list(document["report"]) == ["optdigits", "scripts", "textures"]
    assert "rank 1" in document["failures"]["mnist"]["message"]
    assert "99" in document["failures"]["mnist"]["message"]


def test_fewer_samples_than_processes_are_refused(fusion_eval, tmp_path):
    done = fusion_eval("limit=1", "references=false", "hydra.run.dir=run", *DDP, ok=False)
    assert "1 samples cannot be shared by 2 processes" in done.stderr


def test_a_sweep_of_distributed_runs_stays_in_one_place(fusion_eval, quick, tmp_path):
    fusion_eval("-m", *quick, *DDP, "model=average,ties", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")
    assert len(list(tmp_path.glob("outputs/sweeps/*/*"))) == 1
    assert len(list(tmp_path.rglob("report.json"))) == 2
