"""A user's mistake: one message, an exit code, and nothing else; see also tests/e2e/test_hydra.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fusion_eval.cli import main
from fusion_eval.command import writable_directory
from fusion_eval.errors import FusionEvalError

SWEEP = ("-m", "model.scaling=0.1,0.2")


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """`refused(*arguments)`: run the command in this process; the message that it exits with."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fusion-eval", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert capsys.readouterr() == ("", "")
        assert not any(tmp_path.rglob("report.json"))
        return stop.value.code

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=tis"], "Could not find 'model/tis'"),
        (["model.scalling=1"], "Key 'scalling' is not in struct"),
        (["~taskpool.tasks.x"], "'taskpool.tasks.x' does not exist"),
        (["model=expert"], "model.name: a value is required"),
        (["limit=-3"], "limit: expected an integer >= 1, found -3"),
        (["precision=17"], "Precision 17 is invalid"),
        (["racing=on"], "racing=on compares the jobs of a sweep: add -m"),
        (["select_on=val"], "select_on=val chooses among the jobs of a sweep: add -m"),
        (["objective=mean.acuracy"], "did you mean 'mean.accuracy'?"),
        (["objective=normalised.mean_of_ratios", "references=false"], "needs references=true"),
        ([*SWEEP, "objective=-mean.los"], "did you mean 'mean.loss'?"),
        ([*SWEEP, "split=test", "select_on=val"], "leave split out"),
        ([*SWEEP, "+hydra.sweeper.direction=minimize"], "hydra/sweeper=search"),
        ([*SWEEP, "+hydra.sweeper.direction=Direction.minimize"], "hydra/sweeper=search"),
        ([*SWEEP, "hydra.sweep.dir=/dev/null/x"], "hydra.sweep.dir=/dev/null/x: cannot be made"),
        (["hydra.run.dir=/dev/null/x"], "hydra.run.dir=/dev/null/x: cannot be made"),
    ],
)
def test_a_mistake_is_one_message_before_anything_runs(refused, arguments, says):
    message = refused(*arguments)
    assert message.startswith("fusion-eval: error: ")
    assert says in message


def test_a_mistake_keeps_its_traceback_if_that_is_asked_for(refused, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(FusionEvalError, match="limit"):
        refused("limit=-3")


def test_an_objective_of_swept_tasks_is_left_to_the_jobs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["fusion-eval", "-m", "objective=mean.los", "taskpool.tasks.mnist.data.split=val,test",
                      f"hydra.sweep.dir={tmp_path}"],
    )  # fmt: skip
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.count("did you mean 'mean.loss'?") >= 2
    assert "FUSION_EVAL_SWEEP_DIR" not in os.environ  # a later command is no part of this sweep


def test_jobs_of_a_sweep_that_are_done_are_not_begun(monkeypatch, capsys, tmp_path):
    small = ("limit=10", "bootstrap=0", "references=false", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")
    command = ("-m", *small, "model.scaling=0.2,0.4", "select_on=val", f"hydra.sweep.dir={tmp_path}/sweep")
    monkeypatch.setattr(sys, "argv", ["fusion-eval", *command, f"store.path={tmp_path}/store"])

    def sweep():
        main()
        stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/.hydra/*")}
        board = (tmp_path / "sweep/leaderboard.json").read_bytes()
        return capsys.readouterr().out.count("report.json, as it was"), stamps, board

    monkeypatch.setattr("fusion_eval.selection.conclude_selection", lambda directory: True)
    first, again = sweep(), sweep()
    assert (first[0], again[0], again[1:]) == (0, 2, first[1:])
    (tmp_path / "sweep/1/report.md").unlink()
    third = sweep()
    assert (third[0], third[2], (tmp_path / "sweep/1/report.md").exists()) == (1, first[2], True)
    assert {path.parts[-3] for path, stamp in third[1].items() if stamp != first[1][path]} == {"1"}


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # to the superuser everything is permitted
    with pytest.raises(FusionEvalError, match=r"hydra\.run\.dir=.*: no permission to write there"):
        writable_directory(tmp_path, "hydra.run.dir")


def test_nobody_reads_on():
    script = "import sys; from fusion_eval.cli import main; sys.argv[1:] = ['--help']; main()"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before there is anything to read
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1
