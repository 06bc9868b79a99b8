"""Sweeps end in a leaderboard; `fusion-eval-report` reads what `fusion-eval` wrote. From subprocesses, as a user."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def report_command(tmp_path, environment, forks):
    """`report_command(*arguments, code=0)`: `fusion-eval-report` in `tmp_path`."""

    def run(*arguments, code=0):
        program = ["-c", "from fusion_eval.report_cli import main; main()", *map(str, arguments)]
        done = forks.run(program, tmp_path, environment)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def quick():
    return ("limit=41", "bootstrap=0")


def test_a_sweep_is_ranked_compared_and_verified(fusion_eval, report_command, quick, tmp_path):
    done = fusion_eval("-m", *quick, "hydra.sweep.dir=sweep", "model=average,ties,task_arithmetic")
    assert "mean.accuracy" in done.stdout
    assert "corrected for having been picked" in done.stdout
    sweep = tmp_path / "sweep"
    rows = list(csv.DictReader((sweep / "leaderboard.csv").open(encoding="utf-8")))
    assert {row["run"] for row in rows} == {"Average", "Ties", "TaskArithmetic"}
    means = {
        str(job): json.loads((sweep / str(job) / "report.json").read_text())["aggregates"]["mean"]["accuracy"]["value"]
        for job in range(3)
    }
    assert [row["directory"] for row in rows] == sorted(means, key=lambda job: -means[job])

    before = (sweep / "leaderboard.json").read_bytes()
    report_command("leaderboard", "sweep")
    assert (sweep / "leaderboard.json").read_bytes() == before
    report_command("leaderboard", "sweep/0", "sweep/1", "--output", "both", "--sort", "mnist.loss", "--ascending")
    assert json.loads((tmp_path / "both/leaderboard.json").read_text())["sort"] == "mnist.loss"
    assert "kept: all three right" in report_command("compare", "sweep/0", "sweep/1").stdout

    assert "FAILED" not in report_command("verify", *(f"sweep/{job}" for job in range(3))).stdout
    file = sweep / "1/samples/mnist.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert "sweep/1: FAILED" in report_command("verify", "sweep/0", "sweep/1", code=1).stdout


def test_an_interrupted_sweep_has_its_leaderboard_too(environment, quick, tmp_path):
    command = [sys.executable, "-m", "fusion_eval", "-m", *quick, "hydra.sweep.dir=sweep", "references=false"]
    process = subprocess.Popen(
        [*command, f"model.scaling={','.join(str(n / 100) for n in range(20))}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "sweep/2").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "interrupted" in output
    assert len(json.loads((tmp_path / "sweep/leaderboard.json").read_text())["entries"]) >= 2


def test_grids_from_an_experiment_and_a_job_that_fails(fusion_eval, quick, tmp_path):
    """The sweep goes on, the leaderboard names the job, and the exit code says it."""
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/few.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /hydra/sweeper: grids\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    grids:\n"
        "      - {model: ties, model.density: [2, 0.5]}\n      - {model: average}\n"
    )
    options = ("experiment=few", *quick, "references=false", "hydra.sweep.dir=sweep")
    done = fusion_eval("--config-dir", "mine", *options, ok=False)
    assert "Traceback" not in done.stderr
    assert "not ranked: Ties" in done.stdout
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    assert {entry["label"] for entry in board["entries"]} == {"Average", "Ties density=0.5"}
    [failed] = board["unranked"]
    assert failed.startswith("Ties density=2: failed; ConfigError: model")


def test_the_table_of_methods_composes(fusion_eval):
    done = fusion_eval("experiment=methods", "--cfg", "hydra")
    assert "fusion_eval_grids.GridsSweeper" in done.stdout


def test_the_command_helps_and_is_clear_in_refusal(report_command, tmp_path):
    assert "leaderboard" in report_command("--help").stdout
    assert "nowhere: no such directory" in report_command("leaderboard", "nowhere", code=1).stderr
    assert ".: no run" in report_command("leaderboard", ".", code=1).stderr
    (tmp_path / "report.json").write_text("{}")
    assert "no digest" in report_command("verify", ".", code=1).stdout
    assert "no digest" in report_command("compare", ".", ".", code=1).stderr
    report_command("verify", "report.txt", code=1)
    report_command("sort", code=2)
