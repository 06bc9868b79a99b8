"""What is chosen, on which split, and what is then evaluated."""

from __future__ import annotations

import json
from functools import partial

import pytest
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import build, compose
from fusion_eval.data import Arrays, Embedded
from fusion_eval.errors import ConfigError
from fusion_eval.report import Aggregates, References, ReportWriter, TaskFailure, TaskResult, aggregate, provenance
from fusion_eval.report.runs import SELECTED, find_runs
from fusion_eval.selection import choose, on_selection_split, tasks_on_split, withdraw_selection
from fusion_eval.tasks import Classification
from fusion_eval.tasks.calibration import Calibration

ACCURACY = {"accuracy": partial(MulticlassAccuracy, average="micro")}


def test_a_job_of_the_sweep_evaluates_the_split_and_says_so():
    cfg = on_selection_split(compose(["select_on=val"]))
    assert (cfg.split, cfg.selected_on, cfg.select_on) == ("val", "val", "val")
    assert build(cfg.calibration).evaluated == "val"
    assert on_selection_split(compose(["select_on=validation"])).selected_on == "val"
    assert on_selection_split(compose(["select_on=test"])).selected_on == "test"
    plain = compose()
    assert on_selection_split(plain) is plain


@pytest.mark.parametrize("other", ["split=test", "selected_on=none"])
def test_two_ways_to_say_it_exclude_each_other(other):
    with pytest.raises(ConfigError, match=f"{other} and select_on=val exclude each other"):
        on_selection_split(compose(["select_on=val", other]))


def test_tasks_keep_all_but_their_split():
    tasks = build(compose().taskpool).tasks
    moved = tasks_on_split(tasks, "val")
    assert list(moved) == list(tasks)
    assert {task.data.split for task in moved.values()} == {"val"}
    assert {task.data.split for task in tasks.values()} == {"test"}
    assert tasks_on_split(moved, "test") == tasks == tasks_on_split(tasks, None)


@pytest.mark.parametrize(
    ("data", "split", "says"),
    [
        (Arrays("digits.npz"), "val", r"task 'mine': Arrays has no splits to choose 'val' from.*~taskpool.tasks.mine"),
        (Embedded("mnist"), "vall", "task 'mine': Embedded: split='vall' does not exist"),
        (Embedded("mnist", "val"), "val", "must be evaluated on another.*taskpool.tasks.mine.data.split=test"),
    ],
)
def test_a_split_that_cannot_be_chosen_on_is_refused(data, split, says):
    with pytest.raises(ConfigError, match=says):
        tasks_on_split({"mine": Classification(data, ACCURACY)}, split, other=True)


def test_calibration_samples_are_not_those_of_the_split_that_is_chosen_on():
    tasks = {"mnist": Classification(Embedded("mnist"), ACCURACY)}
    cfg = compose()
    models = build(cfg.modelpool)
    drawn = Calibration(tasks, models, split="val", samples=8)
    assert drawn.record(["mnist"])["experts"]["mnist"]["split"] == "val"
    with pytest.raises(ConfigError, match="its split 'val' is evaluated"):
        Calibration(tasks, models, split="val", samples=8, evaluated="val").record(["mnist"])


@pytest.fixture
def sweep(tmp_path):
    """`sweep({scaling: accuracy or None}, objective, select_on)`: a directory a job; None fails."""

    def write(jobs, objective=None, select_on="val"):
        for job, (scaling, accuracy) in enumerate(jobs.items()):
            config = {"model": {"_target_": "Average", "scaling": scaling}}
            writer = ReportWriter(
                tmp_path / str(job), provenance({**config, "objective": objective, "select_on": select_on}), "val"
            )
            if accuracy is None:
                writer.finish(References(), Aggregates(), [], "failed", TaskFailure("MergeError", "no", ""))
                continue
            metrics = {"accuracy": accuracy, "loss": 2 * accuracy}
            writer.add("mnist", TaskResult(metrics, {}, "accuracy", count=10, seconds=0.1))
            writer.finish(References(), aggregate(writer.report, References()), [], "complete")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("objective", "best"), [(None, 0.4), ("mean.accuracy", 0.4), ("mnist.loss", 0.4), ("-mnist.loss", 0.2)]
)
def test_the_best_complete_run_is_chosen_by_the_objective(sweep, objective, best):
    directory = sweep({0.1: None, 0.2: 0.5, 0.4: 0.8, 0.6: 0.7}, objective)
    assert choose(directory).config["model"]["scaling"] == best


def test_nothing_is_chosen_where_all_failed_or_nothing_was_asked_for(sweep):
    assert choose(sweep({0.1: None})) is None
    assert choose(sweep({0.1: 0.5}, select_on=None)) is None


def test_an_objective_that_there_is_not_is_refused(sweep):
    with pytest.raises(ConfigError, match=r"no run has the objective 'mean.acuracy'"):
        choose(sweep({0.1: 0.5}, "mean.acuracy"))


def test_what_was_selected_is_no_run_of_the_sweep(sweep):
    directory = sweep({0.1: 0.5, 0.2: 0.6})
    (directory / "0").rename(directory / SELECTED)
    assert [run.directory.name for run in find_runs([directory])[0]] == ["1"]
    assert [run.directory.name for run in find_runs([directory / SELECTED])[0]] == [SELECTED]
    withdraw_selection(directory)
    withdraw_selection(directory)
    assert not (directory / SELECTED / "report.json").exists()


def test_a_broken_report_of_a_job_does_not_end_the_selection(sweep):
    directory = sweep({0.1: 0.5, 0.2: 0.6})
    (directory / "1/report.json").write_text(json.dumps({"status": "complete"}))
    assert choose(directory).directory == directory / "0"
