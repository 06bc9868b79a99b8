"""The union of grids, and jobs that fail."""

from __future__ import annotations

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import OmegaConf

from fusion_eval import compose
from fusion_eval.errors import MergeError
from fusion_eval.report.runs import read_run
from fusion_eval.sweeper import conclude_sweep, run_or_record
from hydra_plugins.fusion_eval_grids import GridsSweeper


@pytest.fixture
def context():
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

    return HydraContext(config_loader=ConfigLoaderImpl(ConfigSearchPathImpl()), callbacks=Callbacks())


def jobs(context, grids, *arguments, **options):
    sweeper = GridsSweeper(OmegaConf.create(grids), **options)
    sweeper.hydra_context = context
    overrides = OverridesParser.create().parse_overrides([*sweeper._parse_config(), *arguments])
    return sweeper.split_arguments(overrides, sweeper.max_batch_size)


def test_hydra_finds_it():
    assert GridsSweeper in Plugins.instance().discover(Sweeper)


def test_grids_follow_each_other(context):
    grids = [{"model": "average"}, {"model": "ties", "model.density": "0.1,0.2", "model.scaling": [1, 1.5]}]
    products = itertools.product(["model.density=0.1", "model.density=0.2"], ["model.scaling=1", "model.scaling=1.5"])
    assert jobs(context, grids) == [[["model=average"], *(["model=ties", *product] for product in products)]]


def test_the_command_line_multiplies_every_grid_and_is_stronger(context):
    [batch] = jobs(context, [{"model": "average"}, {"model": "ties", "model.scaling": [1, 2]}], "seed=0,1", "limit=9")
    assert batch == [
        ["model=average", "seed=0", "limit=9"],
        ["model=average", "seed=1", "limit=9"],
        *(
            ["model=ties", f"model.scaling={scaling}", f"seed={seed}", "limit=9"]
            for scaling in (1, 2)
            for seed in (0, 1)
        ),
    ]
    [batch] = jobs(context, [{"model": "ties", "model.scaling": [1, 2]}], "model.scaling=0.3")
    assert batch == [["model=ties", "model.scaling=0.3"]]


def test_shared_params_and_batches(context):
    assert jobs(context, [{"a": [1, 2]}, {"a": 3}], params={"b": "x,y"}, max_batch_size=4) == [
        [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]],
        [["a=3", "b=x"], ["a=3", "b=y"]],
    ]


def test_a_job_of_two_grids_runs_once(context):
    assert jobs(context, [{"a": [1, 2]}, {"a": [2, 3]}]) == [[["a=1"], ["a=2"], ["a=3"]]]


def test_values_of_yaml_are_those_of_the_command_line(context):
    grid = {"a": None, "b": True, "c": 1e-5, "d": "choice(1,2)"}
    assert jobs(context, [grid]) == [
        [["a=null", "b=True", "c=1e-05", "d=1"], ["a=null", "b=True", "c=1e-05", "d=2"]],
    ]


def test_deletions_multiply_and_belong_to_their_grid(context):
    grids = [{"a": 1}, {"a": [1, 2], "~experts": ["x", ["x", "y"], []]}]
    assert jobs(context, grids, "b=3") == [
        [
            ["a=1", "b=3"],
            *(["a=1", "b=3", *removed] for removed in (["~experts.x"], ["~experts.x", "~experts.y"])),
            *(["a=2", "b=3", *removed] for removed in (["~experts.x"], ["~experts.x", "~experts.y"], [])),
        ]
    ]
    assert jobs(context, [{"~experts": "x", "~tasks": ["x", "y"]}]) == [
        [["~experts.x", "~tasks.x"], ["~experts.x", "~tasks.y"]]
    ]


def test_without_grids_it_is_the_basic_sweeper(context):
    assert jobs(context, [], "a=1,2") == [[["a=1"], ["a=2"]]]


def test_a_grid_that_is_none_is_refused(context):
    with pytest.raises(ConfigCompositionException, match=r"expected mappings such as {model: ties}, found 'ties'"):
        jobs(context, ["ties"])


@pytest.fixture
def cfg():
    return compose(["model=ties", "selected_on=val"])


def test_a_failing_job_leaves_a_report_that_says_why(tmp_path, capsys, cfg):
    def job(cfg, directory):
        raise MergeError("density is 2")

    assert run_or_record(job, cfg, tmp_path) is None
    run = read_run(tmp_path)
    assert (run.status, run.selected_on, run.document["error"]["error"]) == ("failed", "val", "MergeError")
    assert run.config["model"]["_target_"] == "fusion_eval.merging.Ties"
    assert "density is 2" in capsys.readouterr().err


def test_a_report_that_the_job_wrote_itself_stays_and_an_old_one_does_not(tmp_path, cfg):
    report = tmp_path / "report.json"
    report.write_text("of an earlier sweep")

    def early(cfg, directory):
        raise MergeError("early")

    def late(cfg, directory):
        report.unlink()
        report.write_text("partial")
        raise MergeError("late")

    run_or_record(early, cfg, tmp_path)
    assert read_run(tmp_path).document["error"]["message"] == "early"
    run_or_record(late, cfg, tmp_path)
    assert report.read_text() == "partial"


def test_a_broken_interpolation_is_recorded_too(tmp_path, cfg):
    OmegaConf.update(cfg, "model.scaling", "${nowhere}")

    def job(cfg, directory):
        return cfg.model.scaling

    assert run_or_record(job, cfg, tmp_path) is None
    assert "nowhere" in read_run(tmp_path).document["error"]["message"]


def test_a_job_that_succeeds_returns_its_objective_and_interrupts_pass(tmp_path, cfg):
    assert run_or_record(lambda cfg, directory: 0.5, cfg, tmp_path) == 0.5

    def interrupted(cfg, directory):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_or_record(interrupted, cfg, tmp_path)


def test_without_a_sweep_there_is_nothing_to_conclude(monkeypatch, capsys):
    monkeypatch.delenv("FUSION_EVAL_SWEEP_DIR", raising=False)
    assert conclude_sweep()
    assert capsys.readouterr().out == ""


def test_children_of_a_distributed_run_do_not_conclude(monkeypatch, tmp_path):
    (tmp_path / "report.json").write_text("garbage")
    monkeypatch.setenv("FUSION_EVAL_SWEEP_DIR", str(tmp_path))
    assert not conclude_sweep()
    monkeypatch.setenv("FUSION_EVAL_SWEEP_DIR", str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert conclude_sweep()
