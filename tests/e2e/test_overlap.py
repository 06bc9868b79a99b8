"""`overlap=...`: evaluated samples are searched in what else the run looks at."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

ONLY_MNIST = ("~taskpool.tasks.optdigits", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")


@pytest.fixture
def digits(tmp_path):
    """Pictures of noise in three splits; two of test are in train, one of test in val, under other names and labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 32, 32), dtype=np.uint8)
    pixels[1, 7], pixels[1, 11], pixels[2, 3] = pixels[0, 4], pixels[0, 5], pixels[0, 9]
    for split, images in zip(("test", "train", "val"), pixels, strict=True):
        for index, image in enumerate(images):
            path = tmp_path / "digits" / split / str(index % 10) / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return (
        *ONLY_MNIST,
        "dataset@taskpool.tasks.mnist.data=folder",
        "taskpool.tasks.mnist.data.root=digits",
        "+taskpool.tasks.mnist.data.transform={_target_: fusion_eval.data.ImageTransform, size: 32}",
        "~modelpool.experts.optdigits",
        "~modelpool.experts.scripts",
        "~modelpool.experts.textures",
        "references=false",
        "bootstrap=0",
        "hydra.run.dir=run",
    )


def report(path):
    return json.loads((path / "report.json").read_text())


def test_planted_duplicates_are_reported_on_the_screen_and_in_the_report(fusion_eval, tmp_path, digits):
    done = fusion_eval(*digits, "overlap=[train,val]")
    document = report(tmp_path / "run")
    assert document["status"] == "complete"
    shared = document["overlap"]["mnist"]
    # a folder lies sorted by class, so sample 8 is picture 4
    assert shared["train"] == {"shared": 2, "count": 20, "examples": [[8, 14], [10, 3]], "unknown": ""}
    assert shared["val"] == {"shared": 1, "count": 20, "examples": [[18, 6]], "unknown": ""}
    sentence = "mnist: 2 of 20 evaluated samples (10.0%) are also in 'train' (samples 8, 10)"
    assert f"fusion-eval: warning: {sentence}" in done.stderr
    assert sentence in document["warnings"]
    assert sentence in (tmp_path / "run/report.md").read_text()


def test_the_splits_that_the_run_uses_are_searched(fusion_eval, tmp_path, digits):
    fusion_eval(*digits, "model=regmean", "overlap=true", "calibration.samples=15")
    document = report(tmp_path / "run")
    assert {name: found["shared"] for name, found in document["overlap"]["mnist"].items()} == {"train": 2}
    fusion_eval("-m", *digits, "overlap=true", "select_on=val", "model.scaling=0.1,0.2", "hydra.sweep.dir=sweep")
    assert [report(tmp_path / "sweep" / str(job))["overlap"] for job in range(2)] == [{}, {}]
    selected = report(tmp_path / "sweep/selected")
    assert {name: found["shared"] for name, found in selected["overlap"]["mnist"].items()} == {"val": 1}


def test_without_anything_to_search_nothing_runs(fusion_eval, tmp_path, digits):
    done = fusion_eval(*digits, "overlap=true", ok=False)
    assert "this run uses no other data than what it evaluates; name a split: overlap=[train]" in done.stderr
    assert not (tmp_path / "run/report.json").exists()
    done = fusion_eval(*digits, "overlap=[tset]")
    assert "whether evaluated samples are also in 'tset' is unknown: digits: no split 'tset'" in done.stderr
    assert report(tmp_path / "run")["status"] == "complete"
