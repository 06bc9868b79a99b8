from __future__ import annotations

import math

import pytest

from fusion_eval.errors import ConfigError
from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.objective import objective
from fusion_eval.report.record import References, Report, TaskFailure, TaskResult


def value(score, **more):
    return TaskResult({"accuracy": score, **more}, {}, "accuracy", 10, 0.1)


@pytest.fixture
def report():
    return Report({"a": value(0.4, loss=math.nan), "b.c/d": value(0.6, loss=1.0)})


@pytest.fixture
def aggregates(report):
    return aggregate(report, References(experts={"a": value(0.8), "b.c/d": value(0.8)}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("mean.accuracy", 0.5),
        ("worst.accuracy", 0.4),
        ("normalised.mean_of_ratios", 0.625),
        ("worst.normalised", 0.5),
        ("a.accuracy", 0.4),
        ("b.c/d.accuracy", 0.6),
    ],
)
def test_every_number_has_a_path(report, aggregates, path, expected):
    assert objective(report, aggregates, path) == pytest.approx(expected)


@pytest.mark.parametrize("path", ["", ".", "mean", "accuracy", "mean.", "a.accuracy.value", "mean.acuracy"])
def test_an_unknown_path_lists_what_there_is(report, aggregates, path):
    with pytest.raises(ConfigError, match="not available") as caught:
        objective(report, aggregates, path)
    for name in ("mean.accuracy", "normalised.ratio_of_means", "worst.accuracy", "worst.normalised", "b.c/d.accuracy"):
        assert name in str(caught.value)


def test_a_typo_gets_a_suggestion(report, aggregates):
    with pytest.raises(ConfigError, match=r"did you mean 'mean\.accuracy'\?"):
        objective(report, aggregates, "mean.acuracy")


def test_what_is_left_out_says_why(report, aggregates):
    with pytest.raises(
        ConfigError, match=r"normalised\.share_of_mean_gap \(no finite result of the base on a, b\.c/d\)"
    ):
        objective(report, aggregates, "normalised.share_of_gap")


def test_a_failed_task_says_why():
    report = Report({"a": value(0.4)}, {"b": TaskFailure("TaskError", "no head", "")})
    with pytest.raises(ConfigError, match=r"(?s)Known: a\.accuracy\nb failed with TaskError: no head"):
        objective(report, aggregate(report, References()), "mean.accuracy")


def test_a_sweeper_never_gets_nan(report, aggregates):
    with pytest.raises(ConfigError, match=r"'a\.loss' is nan"):
        objective(report, aggregates, "a.loss")


def test_a_path_with_two_meanings_is_refused():
    report = Report({"mean": value(0.4), "other": value(0.6)})
    with pytest.raises(ConfigError, match="rename the task"):
        objective(report, aggregate(report, References()), "mean.accuracy")


def test_without_a_path_it_is_the_mean_of_the_primary_metric(report, aggregates):
    assert objective(report, aggregates) == aggregates.groups["mean"]["accuracy"].value
    assert objective(Report({}), aggregates) is None


def test_less_is_better_with_a_minus():
    report = Report({"mnist": TaskResult({"accuracy": 0.6, "loss": 0.25}, {}, "accuracy", count=10, seconds=0.1)})
    assert objective(report, Aggregates(), "-mnist.loss") == -0.25
    with pytest.raises(ConfigError, match=r"'mnist.lss' is not available; did you mean 'mnist.loss'"):
        objective(report, Aggregates(), "-mnist.lss")
