"""The jobs of a sweep in one process: what they share changes no number, and is there once."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from fusion_eval import compose
from fusion_eval.data import Embedded, ImageTransform
from fusion_eval.engine import prepare
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.store import ResultStore
from fusion_eval.evaluation import evaluate

SCALINGS = (0.2, 0.5)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """The embedded experts on digits that lie on disk as images."""
    root, digits = tmp_path_factory.mktemp("digits"), Embedded("optdigits").load()
    for index in range(60):
        pixels = ((digits.inputs[index] * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
        directory = root / "test" / digits.class_names[int(digits.targets[index])]
        directory.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(directory / f"{index}.png")
    data = "taskpool.tasks.optdigits.data"
    return [
        "dataset@taskpool.tasks.optdigits.data=folder",
        f"{data}.root={root}",
        f"{data}.transform.size=32",
        f"{data}.transform.mean=[0.5,0.5,0.5]",
        f"{data}.transform.std=[0.5,0.5,0.5]",
        *(f"~taskpool.tasks.{name}" for name in ("mnist", "scripts", "textures")),
        "progress=false",
        "store=off",
        "audit=false",
        "bootstrap=0",
    ]


def sweep(directory, overrides):
    """Reports of the jobs, one after the other as Hydra runs them in one process, without what they took."""
    reports = []
    for scaling in SCALINGS:
        evaluate(compose([*overrides, f"model.scaling={scaling}"]), directory / str(scaling))
        reports.append(json.loads((directory / str(scaling) / "report.json").read_text()))
    return [(report["report"], report["aggregates"]) for report in reports]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(prepare, "_samples", prepare.Shared(8))


def test_what_jobs_share_changes_no_number_and_is_made_once(tmp_path, overrides, monkeypatch):
    decoded = []
    pixels = ImageTransform.pixels
    monkeypatch.setattr(ImageTransform, "pixels", lambda self, image: decoded.append(1) or pixels(self, image))
    found = {}
    for name, settings in {
        "plain": ["data.cache.mode=off", "data.resident=off"],
        "fast": [f"data.cache.path={tmp_path / 'cache'}", "data.resident=on", "batch_size=auto"],
    }.items():
        monkeypatch.setattr(runner_module, "process_store", ResultStore())
        decoded.clear()
        found[name] = sweep(tmp_path / name, [*overrides, *settings]), len(decoded)
    assert found["plain"][1] == 60 * (len(SCALINGS) + 2)  # the merges, the base and the expert
    assert found["fast"][1] == 60
    for (report, aggregates), (expected, expected_aggregates) in zip(found["fast"][0], found["plain"][0], strict=True):
        assert report["optdigits"] == pytest.approx(expected["optdigits"], rel=1e-6)
        assert aggregates.keys() == expected_aggregates.keys()
