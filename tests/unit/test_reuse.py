"""What jobs of one process share, and when they do not."""

from __future__ import annotations

import shutil
from importlib.resources import files

import pytest
from safetensors.torch import load_file, save_file

from fusion_eval import Runner, build, compose
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError
from fusion_eval.merging import Average
from fusion_eval.models import ModelPool
from fusion_eval.reuse import build_once, references_once, runner_once
from fusion_eval.selection import tasks_on_split
from fusion_eval.taskpool import TaskPool

TASKS = ("~taskpool.tasks.scripts", "~taskpool.tasks.textures")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())
    monkeypatch.setattr("fusion_eval.reuse._references", {})
    monkeypatch.setattr("fusion_eval.reuse._built", {})


def test_equal_configs_are_built_once_and_others_anew():
    first = build_once(compose([*TASKS]).taskpool, "taskpool")
    assert build_once(compose([*TASKS, "model.scaling=0.1"]).taskpool, "taskpool") is first
    other = build_once(compose([*TASKS, "taskpool.tasks.mnist.data.split=val"]).taskpool, "taskpool")
    assert other.tasks["mnist"].data.split == "val"
    assert build_once(compose([*TASKS]).taskpool, "taskpool") == first
    assert list(build_once(compose(["seed=1"]).taskpool, "taskpool").tasks) != list(first.tasks)


def test_a_trainer_serves_the_next_job_unless_something_in_it_is_for_one_job(tmp_path):
    first = runner_once(compose().runner)
    assert runner_once(compose(["model=average"]).runner) is first
    other = runner_once(compose(["precision=64-true"]).runner)
    assert other is not first
    logged = ["logger=csv", f"trainer.logger.save_dir={tmp_path}"]
    assert runner_once(compose(logged).runner) is not runner_once(compose(logged).runner)


def test_a_word_for_a_runner_is_refused():
    with pytest.raises(ConfigError, match=r"^runner: expected a mapping"):
        runner_once(compose(["runner=off"]).runner)


def test_a_missing_value_is_refused_as_ever():
    with pytest.raises(ConfigError, match=r"path: a value is required"):
        build_once(compose(["model=checkpoint"]).model, "model")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """`sweep()`: the references of a job, and how many models were merged for them; checkpoints lie in `tmp_path`."""
    models = build(compose().modelpool)
    for name in ("base", "optdigits", "mnist"):
        shutil.copy(files("fusion_eval.zoo") / f"{name}.safetensors", tmp_path)
    models = ModelPool(
        models.architecture,
        str(tmp_path / "base.safetensors"),
        {name: str(tmp_path / f"{name}.safetensors") for name in ("optdigits", "mnist")},
        {name: models.heads[name] for name in ("optdigits", "mnist")},
    )
    pool = build(compose([*TASKS]).taskpool)
    merged = []
    merge = ModelPool.merge
    monkeypatch.setattr(ModelPool, "merge", lambda *a, **k: merged.append(a[1]) or merge(*a, **k))

    def job(limit=30, split=None, models=models, runner=None):
        runner = runner or Runner(limit=limit, bootstrap=0)
        tasks = TaskPool(tasks_on_split(pool.tasks, split))
        report = tasks.evaluate(merge(models, Average()), runner)
        merged.clear()
        return references_once(tasks, models, runner, report), len(merged)

    job.models = models
    return job


def test_the_references_of_the_job_before_are_those_of_the_next(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, merged = sweep()
    assert merged == 3
    (tmp_path / "report.json").touch()  # jobs write where they run: that is no change of a model
    again, merged = sweep()
    assert merged == 0
    assert again is first


def test_other_settings_data_or_weights_have_others(sweep, tmp_path):
    first, _ = sweep()
    assert sweep(limit=31)[0].base["mnist"].count == 31
    assert sweep(split="val")[0].base["mnist"].fingerprints != first.base["mnist"].fingerprints
    known, merged = sweep()
    assert (known is first, merged) == (False, 3)  # the last one only is kept

    expert = tmp_path / "mnist.safetensors"
    weights = load_file(expert)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file({name: tensor.clone() for name, tensor in weights.items()}, expert)
    found, merged = sweep()
    assert merged == 3
    assert found.experts["mnist"].fingerprints["weights"] != known.experts["mnist"].fingerprints["weights"]
    assert found.base["mnist"].fingerprints["weights"] == known.base["mnist"].fingerprints["weights"]


def test_failed_references_are_tried_again(sweep, monkeypatch):
    merge = ModelPool.merge
    monkeypatch.setattr(ModelPool, "merge", lambda self, method: merge(self, method) and 1 / 0)  # no memory, say
    assert sweep()[0].failures.keys() == {"base on optdigits, mnist", "expert on optdigits", "expert on mnist"}
    monkeypatch.setattr(ModelPool, "merge", merge)
    found, merged = sweep()
    assert (found.failures, merged) == ({}, 3)
    assert sweep()[0] is found


def test_what_has_no_description_is_evaluated_each_time(sweep):
    models = sweep.models
    nameless = ModelPool(lambda: build(compose().modelpool).architecture(), models.base, models.experts, models.heads)
    assert [sweep(models=nameless)[1] for _ in range(2)] == [3, 3]
