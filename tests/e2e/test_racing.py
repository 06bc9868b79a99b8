"""A sweep that drops merges early, as a user runs it."""

import json

FAST = ["references=false", "audit=false", "bootstrap=0"]


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_bad_merge_is_dropped_and_the_leaderboard_says_so(fusion_eval, tmp_path):
    folder = tmp_path / "sweep"
    settings = ["racing=on", *FAST, f"hydra.sweep.dir={folder}"]
    done = fusion_eval("-m", "model.scaling=0.3,1.5", *settings)
    assert report(folder / "0")["status"] == "complete"
    assert report(folder / "0")["race"] is None
    lost = report(folder / "1")
    assert lost["status"] == "dropped"
    assert lost["report"] == {}
    race = lost["race"]
    assert race["against"] == "0"
    assert race["samples"] <= 0.1 * race["of"]
    assert race["at_most"] < 0
    assert f"dropped after {race['samples']:,} of" in (folder / "leaderboard.md").read_text()
    assert [entry["directory"] for entry in json.loads((folder / "leaderboard.json").read_text())["entries"]] == ["0"]
    assert "2 of 2 jobs done" in done.stderr


def test_racing_needs_a_sweep_and_a_mean(fusion_eval):
    assert "add -m" in fusion_eval("racing=on", ok=False).stderr
    done = fusion_eval("-m", "racing=on", "objective=worst.accuracy", "limit=41", ok=False)
    assert "objective=worst.accuracy" in done.stderr
    done = fusion_eval("-m", "racing=on", "objective=mean.loss", "model.scaling=0.3,0.4", *FAST, "limit=41", ok=False)
    assert "compares accuracy" in done.stderr
