"""A changed byte, a missing file, a number that the samples do not bear out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score
from torch import from_numpy, tensor
from torchmetrics.classification import MulticlassCalibrationError

from fusion_eval.errors import DataError
from fusion_eval.report.recompute import recompute
from fusion_eval.report.samples import encode_samples, write_samples
from fusion_eval.report.seal import file_digest, open_sealed, seal
from fusion_eval.report.verify import verify


def test_a_run_as_it_was_written(make_run):
    verdict = verify(make_run("run", 0.7))
    assert not verdict.failed
    assert not verdict.unchecked
    assert "numbers: 18 of 18 computed again" in verdict.passed


def test_unfinished_and_partial_runs_are_right_as_far_as_they_go(make_run):
    assert not verify(make_run("killed", 0.7, finish=False)).failed
    assert not verify(make_run("partial", 0.7, error=RuntimeError("no memory"))).failed


@pytest.mark.parametrize("file", ["report.json", "samples/mnist.parquet", "samples/base/svhn.parquet"])
def test_one_changed_byte_fails(make_run, file):
    directory = make_run("run", 0.7)
    data = (directory / file).read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.integers(len(data), size=20):
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        (directory / file).write_bytes(changed)
        assert file in " ".join(verify(directory).failed)
    (directory / file).write_bytes(data)
    assert not verify(directory).failed


def test_missing_and_strange_files_fail(make_run):
    directory = make_run("run", 0.7)
    (directory / "samples/mnist.parquet").rename(directory / "samples/other.parquet")
    assert verify(directory).failed == ("samples/mnist.parquet: missing", "samples/other.parquet: not of this run")
    with pytest.raises(DataError, match="no such file"):
        verify(directory / "elsewhere")


def reseal(directory, change):
    """What somebody would do who knows how the seal works."""
    path = directory / "report.json"
    document = open_sealed(path)
    change(document)
    path.write_bytes(seal(document))


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("report", "mnist", "accuracy"), 0.99, "mnist.accuracy: the report says 0.99"),
        (("report", "svhn", "loss"), 0.01, "svhn.loss"),
        (("report", "svhn", "loss"), None, "svhn.loss"),
        (("counts", "mnist"), 401, "mnist: samples"),
        (("standard_errors", "mnist", "accuracy"), 0.001, "mnist.accuracy: standard error"),
        (("aggregates", "mean", "accuracy", "value"), 0.9, "mean.accuracy"),
        (("aggregates", "mean", "accuracy", "standard_error"), 0.5, "mean.accuracy: standard error"),
        (("aggregates", "normalised", "share_of_gap", "value"), 0.9, "normalised.share_of_gap"),
        (("aggregates", "worst", "accuracy", "value"), 0.9, "worst.accuracy"),
    ],
)
def test_a_number_that_its_samples_do_not_bear_out_fails_even_if_sealed_again(make_run, keys, value, says):
    directory = make_run("run", 0.7)

    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    reseal(directory, change)
    assert says in " ".join(verify(directory).failed)


def test_a_sample_counted_twice_fails(make_run):
    directory = make_run("run", 0.7)
    columns = {"index": np.zeros(400, int), "score": np.ones(400, bool)}
    path = write_samples(directory, "mnist", encode_samples(columns))
    reseal(directory, lambda document: document["samples"].update({"samples/mnist.parquet": file_digest(path)}))
    failed = " ".join(verify(directory).failed)
    assert "mnist: samples: the report says 400, its samples say 1" in failed
    assert "mnist.accuracy" in failed


def test_metrics_are_those_of_scikit_learn_and_torchmetrics():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 7)).astype(np.float32)
    target = generator.integers(6, size=500)  # class 6 is predicted but never right
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {"target": target, "prediction": logits.argmax(axis=1), "confidence": odds.max(axis=1)}
    columns |= {
        "loss": -np.log(odds[np.arange(500), target]),
        "rank": (logits > logits[np.arange(500), [target]].T).sum(1),
    }
    metric = MulticlassCalibrationError(num_classes=7, n_bins=15)
    expected = {
        ("BalancedAccuracy",): recall_score(target, columns["prediction"], labels=range(6), average="macro"),
        ("MulticlassF1Score", ("average", "macro")): f1_score(target, columns["prediction"], average="macro"),
        ("CalibrationError", ("n_bins", 15), ("norm", "l1")): float(metric(from_numpy(odds), tensor(target))),
        ("TopKAccuracy", ("k", 2)): np.mean(
            [t in row for t, row in zip(target, (-logits).argsort(1)[:, :2], strict=True)]
        ),
        ("CrossEntropy",): columns["loss"].mean(),
        ("MulticlassAccuracy", ("average", "macro")): None,
        ("Unknown",): None,
    }
    for (name, *settings), value in expected.items():
        found = recompute({"_target_": f"somewhere.{name}", "_partial_": True, **dict(settings)}, columns)
        assert found == (None if value is None else pytest.approx(value, abs=1e-6)), name
    assert recompute({"_target_": "CrossEntropy"}, {"target": target}) is None
