from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from fusion_eval.errors import FusionEvalError
from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, TaskFailure, TaskResult
from fusion_eval.report.samples import read_samples, samples_path
from fusion_eval.report.seal import file_digest, open_sealed
from fusion_eval.report.writer import ReportWriter


def result(accuracy, n=20, loss=0.5):
    scores = np.arange(n) < accuracy * n
    return TaskResult(
        {"accuracy": float(scores.mean()), "loss": loss},
        {"accuracy": 0.1},
        "accuracy",
        n,
        0.25,
        {"index": np.arange(n), "loss": np.full(n, loss)},
        scores,
        {"data": "d", "weights": "w"},
    )


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def origin():
    return provenance({"seed": 0})


def test_a_whole_run(tmp_path, origin):
    writer = ReportWriter(tmp_path / "run", origin, "validation")
    writer.add("mnist", result(0.5))
    writer.add("glue/sst2", result(0.75))
    references = References(
        {"mnist": result(0.1), "glue/sst2": result(0.1)}, {"mnist": result(1.0), "glue/sst2": result(1.0)}
    )
    aggregates = aggregate(writer.report, references)
    writer.finish(references, aggregates, ["the weights are old"], "complete")

    assert files(tmp_path / "run") == [
        "report.html",
        "report.json",
        "report.md",
        "samples/base/glue%2Fsst2.parquet",
        "samples/base/mnist.parquet",
        "samples/experts/glue%2Fsst2.parquet",
        "samples/experts/mnist.parquet",
        "samples/glue%2Fsst2.parquet",
        "samples/mnist.parquet",
    ]
    found = strict(tmp_path / "run" / "report.json")
    assert found == {
        "schema_version": 1,
        "status": "complete",
        "error": None,
        "report": {"mnist": {"accuracy": 0.5, "loss": 0.5}, "glue/sst2": {"accuracy": 0.75, "loss": 0.5}},
        "standard_errors": {"mnist": {"accuracy": 0.1}, "glue/sst2": {"accuracy": 0.1}},
        "counts": {"mnist": 20, "glue/sst2": 20},
        "seconds": {"mnist": 0.25, "glue/sst2": 0.25},
        "primary": {"mnist": "accuracy", "glue/sst2": "accuracy"},
        "higher_is_better": {"mnist": True, "glue/sst2": True},
        "references": {
            "base": {task: {"accuracy": 0.1, "loss": 0.5} for task in ("mnist", "glue/sst2")},
            "experts": {task: {"accuracy": 1.0, "loss": 0.5} for task in ("mnist", "glue/sst2")},
        },
        "ratios": found["ratios"],
        "aggregates": found["aggregates"],
        "failures": {},
        "warnings": ["the weights are old"],
        "selected_on": "validation",
        "evaluated_at": {"mnist": "", "glue/sst2": ""},
        "merge": {},
        "race": None,
        "truncated": {},
        "overlap": {},
        "fingerprints": {task: {"data": "d", "weights": "w"} for task in ("mnist", "glue/sst2")},
        "samples": {
            name: file_digest(tmp_path / "run" / name) for name in files(tmp_path / "run") if name.startswith("samples")
        },
        "provenance": origin,
        "digest": found["digest"],
    }
    del found["digest"]
    assert open_sealed(tmp_path / "run/report.json") == found
    assert found["report"] == writer.report
    assert list(found["report"]) == ["mnist", "glue/sst2"]
    worst = aggregates.groups["worst"]["accuracy"]
    assert found["aggregates"]["worst"]["accuracy"] == {"value": 0.5, "standard_error": 0.1, "task": "mnist"}
    assert worst.value == 0.5
    assert found["ratios"]["mnist"]["value"] == 0.5
    np.testing.assert_array_equal(read_samples(tmp_path / "run", "glue/sst2")["index"], np.arange(20))


def test_what_is_done_is_on_disk_while_the_rest_runs(tmp_path, origin):
    writer = ReportWriter(tmp_path, origin)
    assert strict(tmp_path / "report.json")["status"] == "running"
    writer.add("mnist", result(0.5))
    assert strict(tmp_path / "report.json")["report"] == {"mnist": {"accuracy": 0.5, "loss": 0.5}}
    writer.add("svhn", TaskFailure("TaskError", "no head", "Traceback"))
    found = strict(tmp_path / "report.json")
    assert (found["status"], found["selected_on"]) == ("running", None)
    assert found["failures"] == {"svhn": {"error": "TaskError", "message": "no head", "traceback": "Traceback"}}
    assert files(tmp_path) == ["report.json", "samples/mnist.parquet"]


def test_a_second_run_in_the_same_directory_does_not_pass_off_the_first_as_its_own(tmp_path, origin):
    first = ReportWriter(tmp_path, origin)
    first.add("mnist", result(0.5))
    first.finish(References(), Aggregates(), [], "complete")
    ReportWriter(tmp_path, origin)
    assert files(tmp_path) == ["report.json"]
    found = strict(tmp_path / "report.json")
    assert (found["status"], found["report"]) == ("running", {})


def test_what_json_cannot_hold_is_null_with_a_warning(tmp_path, origin):
    writer = ReportWriter(tmp_path, {**origin, "config": {"list": [math.inf]}})
    writer.add("mnist", result(0.5, loss=math.nan))
    aggregates = aggregate(writer.report, References())
    writer.finish(References(), aggregates, [], "complete")
    found = strict(tmp_path / "report.json")
    assert found["report"] == {"mnist": {"accuracy": 0.5, "loss": None}}
    assert found["warnings"][-2:] == [
        "report.mnist.loss is nan, written as null",
        "provenance.config.list[0] is inf, written as null",
    ]
    assert found["warnings"][:-2] == list(aggregates.warnings)
    assert "report.mnist.loss is nan, written as null" in (tmp_path / "report.md").read_text()


def test_text_that_is_no_unicode_is_written(tmp_path, origin):
    writer = ReportWriter(tmp_path, {**origin, "command": "fusion-eval a=\udcff"})
    writer.add("ä", TaskFailure("OSError", "caf\udce9.png", ""))
    writer.finish(References(), Aggregates(), [], "failed")
    assert strict(tmp_path / "report.json")["failures"]["ä"]["message"] == "caf\udce9.png"
    assert "caf\\udce9.png" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_task_without_samples_has_no_file(tmp_path, origin):
    writer = ReportWriter(tmp_path, origin)
    writer.add("parameters", TaskResult({"parameters": 5.0}, {}, "parameters", 0, 0.0))
    assert files(tmp_path) == ["report.json"]


def test_where_samples_cannot_be_written_the_task_is_not_reported(tmp_path, origin):
    writer = ReportWriter(tmp_path, origin)
    samples_path(tmp_path, "mnist").mkdir(parents=True)
    with pytest.raises(FusionEvalError, match=r"cannot write .*mnist\.parquet"):
        writer.add("mnist", result(0.5))
    assert strict(tmp_path / "report.json")["report"] == writer.report == {}


KILLED = """
import sys
from pathlib import Path
import numpy as np
from fusion_eval.report.record import TaskResult
from fusion_eval.report.writer import ReportWriter

writer = ReportWriter(Path(sys.argv[1]), {"config": {"padding": "x" * 200_000}})
print("ready", flush=True)
for number in range(10_000):
    samples = {"index": np.arange(1000), "loss": np.random.default_rng(number).random(1000)}
    writer.add(f"task {number}", TaskResult({"accuracy": 0.5}, {}, "accuracy", 1000, 0.1, samples))
"""


def test_kill_9_leaves_whole_files_and_every_finished_task(tmp_path):
    finished = 0
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(directory)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        while not samples_path(directory, "task 0").exists():
            time.sleep(0.01)
        time.sleep(random.Random(attempt).uniform(0.2, 0.5))
        process.kill()
        process.communicate()
        found = strict(directory / "report.json")
        assert found["status"] == "running"
        finished += len(found["report"])
        for number, task in enumerate(found["report"]):
            expected = np.random.default_rng(number).random(1000)
            np.testing.assert_array_equal(read_samples(directory, task)["loss"], expected)
        visible = [name for name in files(directory) if not name.rpartition("/")[2].startswith(".")]
        assert len(visible) - 1 - len(found["report"]) in {0, 1}
    assert finished > 0
