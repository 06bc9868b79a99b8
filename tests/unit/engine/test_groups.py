"""Samples that come in groups, from the file to the report: errors, intervals, comparisons and their verification."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from statsmodels.regression.linear_model import OLS
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval.data import Arrays, Table
from fusion_eval.engine import Runner
from fusion_eval.errors import DataError
from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.comparison import compare
from fusion_eval.report.leaderboard import leaderboard
from fusion_eval.report.leaderboard_rows import notes
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, Report
from fusion_eval.report.rows import task_rows
from fusion_eval.report.runs import read_run
from fusion_eval.report.seal import open_sealed, seal
from fusion_eval.report.statistics import standard_error_of_mean
from fusion_eval.report.verify import verify
from fusion_eval.report.writer import ReportWriter
from fusion_eval.taskpool import TaskPool
from fusion_eval.tasks import Classification

N, CLASSES, VIDEOS = 360, 3, 24
METRICS = {
    "accuracy": partial(MulticlassAccuracy, average="micro"),
    "f1": partial(MulticlassF1Score, average="macro"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Frames of 24 videos, each video with an offset of its own."""
    generator = np.random.default_rng(0)
    videos = generator.permutation(np.repeat(np.arange(VIDEOS), N // VIDEOS))
    targets = generator.integers(CLASSES, size=N)
    offsets = 2 * generator.normal(size=(VIDEOS, CLASSES))
    inputs = (1.5 * np.eye(CLASSES)[targets] + offsets[videos] + 0.5 * generator.normal(size=(N, CLASSES))).astype("f4")
    path = tmp_path_factory.mktemp("data") / "videos.npz"
    np.savez(path, inputs=inputs, targets=targets, videos=videos)
    return str(path)


def task(file, group_key="videos"):
    names = [str(k) for k in range(CLASSES)]
    return Classification(Arrays(file, class_names=names, group_key=group_key), METRICS)


def model(tilt=0.0):
    layer = nn.Linear(CLASSES, CLASSES)
    layer.weight.data = torch.eye(CLASSES)
    layer.bias.data = torch.tensor([tilt, 0.0, 0.0])
    return layer


def test_errors_are_those_of_statsmodels_and_of_groups(file):
    runner = Runner(bootstrap=200)
    grouped = runner.run("videos", task(file), model())
    alone = runner.run("videos", task(file, group_key=None), model())
    assert grouped.metrics == alone.metrics
    assert grouped.samples["group"].tolist() == np.load(file)["videos"].tolist()
    fitted = OLS(grouped.scores.astype(float), np.ones(N))
    fitted = fitted.fit(cov_type="cluster", cov_kwds={"groups": grouped.samples["group"]})
    assert grouped.standard_errors["accuracy"] == pytest.approx(fitted.bse[0])
    assert grouped.standard_errors["accuracy"] > 1.5 * alone.standard_errors["accuracy"]
    assert grouped.standard_errors["f1"] > 1.3 * alone.standard_errors["f1"]
    assert task_rows(Report({"videos": grouped}), References(), Aggregates())[0].cells[1] == "360 in 24 groups"
    assert grouped.fingerprints["data"] != alone.fingerprints["data"]  # errors depend on it: so does the result store


def test_a_part_of_the_samples_keeps_its_groups(file):
    result = Runner(limit=50, batch_size=7).run("videos", task(file), model())
    assert result.samples["group"].tolist() == np.load(file)["videos"][result.samples["index"]].tolist()


@pytest.fixture
def runs(file, tmp_path):
    """Three models, the second and third hardly different from the first."""
    pool = TaskPool({"videos": task(file)})
    base = pool.evaluate(model(3.0), Runner(bootstrap=20)).results
    found = []
    for job, tilt in enumerate((0.0, 0.4, 0.8)):
        report = pool.evaluate(model(tilt), Runner(bootstrap=20))
        writer = ReportWriter(tmp_path / str(job), provenance({"model": {"tilt": tilt}}))
        for name, result in report.results.items():
            writer.add(name, result)
        references = References(base, base)
        writer.finish(references, aggregate(report, references, resamples=200), [], "complete")
        found.append(read_run(tmp_path / str(job)))
    return found


def test_verify_knows_of_groups(runs):
    path = runs[0].directory / "report.json"
    assert not verify(path).failed
    document = open_sealed(path)
    document["standard_errors"]["videos"]["accuracy"] = standard_error_of_mean(runs[0].scores("videos"))
    path.write_bytes(seal(document))
    assert "videos.accuracy: standard error: the report says" in " ".join(verify(path).failed)


def test_comparisons_flip_groups(runs):
    found = compare(runs[0], runs[1], resamples=999).tasks["videos"]
    assert found.test == "sign flips"
    assert found.flips is not None
    assert found.p_value == found.adjusted == found.difference.p_value
    difference = runs[1].scores("videos") - runs[0].scores("videos")
    totals = np.bincount(runs[0].samples("videos")["group"], weights=difference)
    flipped = np.random.default_rng(1).choice([-1, 1], size=(20_000, VIDEOS)) @ totals
    assert found.p_value == pytest.approx((abs(flipped) >= abs(totals.sum()) - 1e-9).mean(), abs=0.03)


def test_a_leaderboard_says_so_and_its_intervals_are_wide(runs):
    board = leaderboard(runs, resamples=299)
    assert board.groups == {"videos": VIDEOS}
    assert any("videos (24 groups)" in line for line in notes(board))
    assert any("sign flips of groups" in line for line in notes(board))
    cell = board.entries[0].tasks["videos"]
    assert cell.high - cell.low > 4 * cell.standard_error
    base = board.references[0].tasks["videos"]
    assert base.standard_error == pytest.approx(runs[0].document["standard_errors"]["videos"]["accuracy"], rel=1)
    assert base.high - base.low > 3.5 * base.standard_error


def test_the_column_of_a_table_may_hold_names(tmp_path):
    (tmp_path / "t.csv").write_text("x,day,label\n1,mon,0\n2,tue,1\n3,mon,1\n")
    samples = Table(str(tmp_path / "t.csv"), target="label", group="day").load()
    assert samples.groups.tolist() == ["mon", "tue", "mon"]
    assert samples[0][0].tolist() == [1.0]
    assert samples.fingerprint() != Table(str(tmp_path / "t.csv"), target="label", features=["x"]).load().fingerprint()
    (tmp_path / "t.csv").write_text("x,day,label\n1,mon,0\n2,,1\n")
    with pytest.raises(DataError, match=r"group column 'day', row 1: None is no name or whole number"):
        Table(str(tmp_path / "t.csv"), target="label", group="day").load()


@pytest.mark.parametrize("groups", [np.arange(N) / 2, np.arange(N - 1), np.zeros((N, 1), int)])
def test_groups_that_are_none_are_refused(file, tmp_path, groups):
    arrays = dict(np.load(file))
    np.savez(tmp_path / "bad.npz", **{**arrays, "videos": groups})
    with pytest.raises(DataError, match=r"bad.npz: groups 'videos' are .*; they should be 360 integers"):
        task(str(tmp_path / "bad.npz")).data.load()
