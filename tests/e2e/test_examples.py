"""The example packages as users have them: installed, and found by the command through their entry points."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

from fusion_eval import build, compose

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = ("printed_digits", "same_class")
QUICK = ("references=false", "bootstrap=0", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with both example packages, each built from a copy of its own sources."""
    root = tmp_path_factory.mktemp("examples")
    for example in PACKAGES:
        shutil.copytree(EXAMPLES / example, root / example)
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(root / "target")]
        subprocess.run([*command, str(root / example)], check=True)
    return root / "target"


@pytest.fixture
def run(fusion_eval, environment, installed, monkeypatch, tmp_path):
    """Run the command where the examples are installed, and return its report."""
    monkeypatch.setitem(environment, "PYTHONPATH", str(installed))
    monkeypatch.syspath_prepend(str(installed))

    def run(*arguments):
        fusion_eval(*QUICK, *arguments)
        return json.loads((tmp_path / "run/report.json").read_text())

    return run


@pytest.fixture(scope="module")
def merged():
    cfg = compose()
    return build(cfg.modelpool).merge(build(cfg.model)).eval()


def test_a_data_set_of_another_package(run, merged):
    document = run("taskpool=printed_digits")
    assert document["counts"] == {"mnist": 1001, "printed_digits": 200}
    samples = importlib.import_module("printed_digits").PrintedDigits().load()
    with torch.inference_mode():
        logits = merged.heads["mnist"](merged(samples.inputs))
    expected = accuracy_score(samples.targets, logits.argmax(dim=-1))
    assert document["report"]["printed_digits"]["accuracy"] == pytest.approx(expected)
    assert expected > 0.5  # a merged model that reads handwriting reads print better than by chance
    assert document["fingerprints"]["printed_digits"]["data"] == samples.fingerprint()


def test_no_printed_digit_is_in_both_splits(run):
    source = importlib.import_module("printed_digits").PrintedDigits
    train, test = ({image.numpy().tobytes() for image in source(split).load().inputs} for split in ("train", "test"))
    assert len(train) == len(test) == 200
    assert not train & test


def test_a_kind_of_task_of_another_package(run, merged):
    document = run(
        "taskpool=same_class",
        "+task@taskpool.tasks.mine=same_class",
        "dataset@taskpool.tasks.mine.data.source=optdigits",
        "references=true",
    )
    assert document["primary"] == dict.fromkeys(["mnist_pairs", "scripts_pairs", "mine"], "auroc")
    assert document["references"]["experts"].keys() == {"mnist_pairs", "scripts_pairs", "mine"}  # named by their heads
    pairs = importlib.import_module("same_class").Pairs
    for task, name in {"mnist_pairs": "mnist", "scripts_pairs": "scripts", "mine": "optdigits"}.items():
        source = build(compose().taskpool).tasks[name].data
        samples = pairs(source).load()
        inputs, same = zip(*(samples[index] for index in range(len(samples))), strict=True)
        with torch.inference_mode():
            features = [merged(torch.stack(side)).double().numpy() for side in zip(*inputs, strict=True)]
        first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in features)
        similarity = (1 + (first * second).sum(axis=1)) / 2
        assert 0.4 < np.mean(same) < 0.6
        found = document["report"][task]
        assert found["auroc"] == pytest.approx(roc_auc_score(same, similarity), abs=1e-4)
        assert found["accuracy"] == pytest.approx(accuracy_score(same, similarity > 0.65), abs=2 / len(same))
