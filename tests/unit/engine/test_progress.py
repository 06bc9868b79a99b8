from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Classification, Runner
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.engine.progress import TaskProgress
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import TaskError


@dataclass(frozen=True)
class Zeros(DataSource):
    wrong: int = 0

    def load(self):
        return TensorSamples(torch.zeros(30, 4), torch.full((30,), self.wrong), ("a", "b"))


def run(progress, wrong=0):
    task = Classification(Zeros(wrong), {"accuracy": partial(MulticlassAccuracy, average="micro")})
    runner = Runner(batch_size=8, progress=progress)
    result = runner.run("zeros", task, nn.Linear(4, 2), label="merged")
    runner.show(result)
    runner.show(result)  # what did not run again is not shown again
    return result


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())


def test_a_finished_task_leaves_one_line_on_standard_error(capsys):
    result = run(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("merged on zeros ")
    assert f"accuracy {result.score:.4f}" in line
    assert "30 samples" in line


def test_nothing_is_shown_unless_asked_for(capsys):
    run(progress=False)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_that_goes_away(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    run(progress=True)
    shown = capsys.readouterr().err
    assert "30/30" in shown  # samples
    assert shown.rstrip().splitlines()[-1].count("30 samples") == 1


def test_a_bar_is_closed_when_the_task_fails(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(TaskError, match="target 5"):
        run(progress=True, wrong=5)
    assert capsys.readouterr().err.rindex("\x1b[?25h") > 0  # the cursor is visible again


def test_on_a_terminal_samples_that_are_prepared_have_a_bar_of_their_own(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    progress = TaskProgress(visible=True)
    with progress.preparing("zeros", 30) as advance:
        assert capsys.readouterr().err == ""  # nothing is prepared yet
        advance(10)
        advance(20)
    shown = capsys.readouterr().err
    assert "preparing zeros" in shown
    assert "30/30" in shown
    assert progress._bar is None
