from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from fusion_eval.errors import TaskError
from fusion_eval.report.record import Report, TaskFailure, TaskResult


def result(**changes):
    arguments = {
        "metrics": {"accuracy": np.float64(0.5), "loss": np.float32(0.25)},
        "standard_errors": {"accuracy": 0.1},
        "primary": "accuracy",
        "count": 4,
        "seconds": 0.5,
        "samples": {"index": np.arange(4)},
        "scores": np.array([1, 0, 1, 0]),
    }
    return TaskResult(**{**arguments, **changes})


@pytest.fixture
def report():
    try:
        raise TaskError("12 classes, 10 logits")
    except TaskError as error:
        return Report({"mnist": result()}, {"svhn": TaskFailure.from_exception(error)})


def test_a_report_is_the_dict_it_looks_like(report):
    assert report == {"mnist": {"accuracy": 0.5, "loss": 0.25}}
    assert {type(value) for value in report["mnist"].values()} == {float}
    assert json.loads(json.dumps(report)) == report
    assert report == Report({"mnist": result(seconds=9.0)})
    assert report != Report({})


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda report: pickle.loads(pickle.dumps(report))])
def test_a_clone_keeps_everything(report, clone):
    cloned = clone(report)
    assert type(cloned) is Report
    assert cloned == report
    assert cloned.failures == report.failures
    np.testing.assert_array_equal(cloned.results["mnist"].scores, report.results["mnist"].scores)


def test_a_failure_says_where_it_happened(report):
    failure = report.failures["svhn"]
    assert (failure.error, failure.message) == ("TaskError", "12 classes, 10 logits")
    assert "test_record.py" in failure.traceback


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary": "acuracy"}, "'acuracy' is not among the metrics: accuracy, loss"),
        ({"scores": np.zeros(3)}, r"scores has shape \(3,\), but 4 samples"),
        ({"scores": np.zeros((4, 1))}, r"scores has shape \(4, 1\)"),
        ({"samples": {"index": np.arange(5)}}, r"index has shape \(5,\)"),
    ],
)
def test_a_result_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        result(**changes)
