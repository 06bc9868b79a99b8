"""A sweep is the same whatever launches its jobs; launchers and sweepers that are not installed are skipped."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import yaml

TINY = ("limit=20", "bootstrap=0", "references=false", "~taskpool.tasks.mnist", "~taskpool.tasks.scripts",
        "~taskpool.tasks.textures")  # fmt: skip

LAUNCHERS = {
    "processes": ("hydra_plugins.hydra_joblib_launcher", ()),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ("hydra.launcher.timeout_min=5",)),
    "ray": ("hydra_plugins.hydra_ray_launcher", ("+hydra.launcher.ray.init.num_cpus=2",)),
    "ray_local": ("hydra_plugins.hydra_ray_launcher", ()),
}
"""Option of `hydra/launcher` to the package that it needs, and overrides that keep it small."""


def need(package):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_runs_a_sweep_with_a_failing_job(fusion_eval, tmp_path, launcher):
    package, overrides = LAUNCHERS[launcher]
    need(package)
    sweep = ("model=ties", "model.density=0.2,7", "select_on=val", "hydra.sweep.dir=sweep")
    done = fusion_eval("-m", *TINY, *sweep, f"hydra/launcher={launcher}", *overrides, ok=False)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("sweep: 2 of 2 jobs done, 1 failed")]
    assert line.endswith(" of job 0")
    reports = [json.loads((tmp_path / f"sweep/{job}/report.json").read_text()) for job in range(2)]
    assert [report["provenance"]["config"]["model"]["density"] for report in reports] == [0.2, 7]
    assert [report["status"] for report in reports] == ["complete", "failed"]
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    assert [entry["directory"] for entry in board["entries"]] == ["0"]
    assert len(board["unranked"]) == 1
    selected = json.loads((tmp_path / "sweep/selected/report.json").read_text())
    assert (selected["status"], selected["selected_on"]) == ("complete", "val")


@pytest.mark.parametrize(
    ("launcher", "package", "target"),
    [
        ("slurm", "hydra_plugins.hydra_submitit_launcher", "SlurmLauncher"),
        ("ray_gpus", "hydra_plugins.hydra_ray_launcher", "RayLauncher"),
    ],
)
def test_presets_for_machines_that_are_not_here_compose(fusion_eval, launcher, package, target):
    need(package)
    config = yaml.safe_load(fusion_eval(f"hydra/launcher={launcher}", "--cfg", "hydra").stdout)
    assert config["hydra"]["launcher"]["_target_"].endswith(target)


def test_optuna_finds_the_most_and_survives_trials_that_fail(fusion_eval, tmp_path):
    need("hydra_plugins.hydra_optuna_sweeper")
    space = ("model=ties", "model.density=interval(0.5,1.5)", "+model.weights.mnist=interval(0,1)")
    options = ("hydra/sweeper=search", "hydra.sweeper.n_trials=4", "objective=optdigits.macro_f1")
    fusion_eval("-m", *TINY, *space, *options, "hydra.sweep.dir=sweep", ok=False)
    reports = [json.loads((tmp_path / f"sweep/{job}/report.json").read_text()) for job in range(4)]
    assert {report["status"] for report in reports} == {"complete", "failed"}
    best = yaml.safe_load((tmp_path / "sweep/optimization_results.yaml").read_text())
    complete = [report for report in reports if report["status"] == "complete"]
    assert best["best_value"] == max(report["report"]["optdigits"]["macro_f1"] for report in complete)
    assert best["best_params"].keys() == {"model.density", "+model.weights.mnist"}
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    assert board["sort"] == "optdigits.macro_f1"


def test_a_sweeper_that_would_look_for_the_worst_is_refused(fusion_eval):
    need("hydra_plugins.hydra_optuna_sweeper")
    done = fusion_eval("-m", *TINY, "hydra/sweeper=optuna", "model.scaling=interval(0,1)", ok=False)
    assert "hydra/sweeper=search" in done.stderr


def test_less_of_an_objective_is_better_with_a_minus(fusion_eval, tmp_path):
    fusion_eval("-m", *TINY, "hydra.sweep.dir=sweep", "model.scaling=0,0.3,1", "objective=-mean.loss")
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    losses = [entry["headline"]["value"] for entry in board["entries"]]
    assert board["sort"] == "mean.loss"
    assert losses == sorted(losses)


def test_one_expert_after_the_other_is_left_out(fusion_eval, tmp_path):
    fusion_eval("experiment=leave_one_out", *TINY, "model=average", "hydra.sweep.dir=sweep")
    left = []
    for job in range(5):
        config = json.loads((tmp_path / f"sweep/{job}/report.json").read_text())["provenance"]["config"]
        left.append(list(config["modelpool"]["experts"]))
    everyone = ["optdigits", "mnist", "scripts", "textures"]
    assert left == [everyone, *([name for name in everyone if name != out] for out in everyone)]
    board = json.loads((tmp_path / "sweep/leaderboard.json").read_text())
    assert {entry["label"] for entry in board["entries"]} == {
        "Average",
        *(f"Average ~experts.{name}" for name in everyone),
    }
