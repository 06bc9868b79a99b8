"""The benchmarks run, small, and what they print is there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_merging(tmp_path: Path) -> None:
    small = ["--experts", "2", "--layers", "1", "--rounds", "1", "--threads", "1"]
    numbers = tmp_path / "numbers.json"
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "merging.py"),
            *small,
            "--methods",
            "ties",
            "--no-peers",
            "--scratch",
            str(tmp_path),
            "--json",
            str(numbers),
        ],
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(numbers.read_text())
    rows = {row["tool"]: row for row in document["rows"]}
    assert list(rows) == ["read", "read_write", "arithmetic", "ours", "ours_to_file"]
    for tool, row in rows.items():
        assert tool in done.stdout
        figures = [row[key] for key in ("seconds", "process_seconds", "peak_megabytes")]
        assert all(math.isfinite(figure) and figure > 0 for figure in figures), row
        assert row["seconds"] < row["process_seconds"]
    assert rows["ours"]["difference"] == rows["ours_to_file"]["difference"] == 0
    assert rows["read"]["megabytes"] < 0.5 * document["model_megabytes"] < rows["ours"]["megabytes"]
    assert sorted(tmp_path.iterdir()) == [numbers], "the models are removed"


def test_groups(tmp_path: Path) -> None:
    small = ["--models", "3", "--batch-sizes", "2", "--batches", "6", "--rounds", "1"]
    numbers = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "groups.py"), *small, "--json", str(numbers)],
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "embedded encoder" in done.stdout
    rows = json.loads(numbers.read_text())["rows"]
    assert [row["model"] for row in rows] == ["MLP", "embedded encoder", "tiny ViT"]
    assert all(row["difference"] < 1e-6 and min(row["off"], row["stacked"], row["auto"]) > 0 for row in rows)


def test_start_up(tmp_path: Path, environment: dict[str, str], fusion_eval: Callable[..., object]) -> None:
    """The encoder that notes its first forward is the encoder."""
    environment["PYTHONPATH"] = str(BENCHMARKS)
    stamped = ("modelpool.architecture._target_=stamped_encoder.StampedEncoder", "+modelpool.architecture.path=stamp")
    started = time.time()
    for name, arguments in (("plain", ()), ("stamped", stamped)):
        fusion_eval("limit=20", "bootstrap=0", "references=false", "store=off", f"hydra.run.dir={name}", *arguments)
    one, other = (json.loads((tmp_path / name / "report.json").read_text())["report"] for name in ("plain", "stamped"))
    assert one == other
    at, processor = json.loads((tmp_path / "stamp").read_text())
    assert started < at < (tmp_path / "stamped" / "report.json").stat().st_mtime
    assert processor > 0
