"""Jobs of a sweep are composed exactly as Hydra composes them, only once for all."""

from __future__ import annotations

import pickle
import time

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from fusion_eval.config import _fresh_hydra
from fusion_eval.sweep_loader import SweepLoader

JOBS = [
    [],
    ["model=ties", "model.density=0.3"],
    ["model=ties", "model.density=0.5", "hydra.sweep.dir=x"],
    ["model.density=0.7", "model=ties"],
    ["model=average", "~taskpool.tasks.mnist"],
    ["+task@taskpool.tasks.again=mnist", "taskpool.tasks.again.data.split=val", "seed=3"],
    ["~modelpool.experts.mnist", "+model.weights.mnist=0.2", "model.scaling=0.1", "++foo=3", "+bar={a: 1}"],
    ["store=off", "logger=csv", "+hydra.job.env_set.A=1", "hydra.verbose=true"],
    ["experiment=scaling", "model.scaling=0.7"],
    ["dataset@taskpool.tasks.mnist.data=optdigits", "model={scaling: 0.35}"],
    ["seed=1", "seed=2", "limit=null"],
]
WRONG = [
    ["model=nope"],
    ["model.nope=3"],
    ["nope=3"],
    ["~nope"],
    ["+seed=3"],
    ["model.scaling=1,2"],
    ["model.scaling=[1"],
    ["model={unknown: 1}"],
]


@pytest.fixture(scope="module")
def loaders():
    """Hydra's loader, ours, and the config of the sweep."""
    with _fresh_hydra(), initialize_config_module("fusion_eval.conf", version_base="1.3"):
        plain = GlobalHydra.instance().hydra.config_loader
        sweep = plain.load_configuration("config", ["select_on=val"], RunMode.MULTIRUN)
        yield plain, SweepLoader(plain.get_search_path()), sweep


def test_every_job_is_what_hydra_makes_of_it_also_the_second_time(loaders):
    plain, fast, master = loaders
    expected = [plain.load_sweep_config(master, job) for job in JOBS]
    for job, wanted in [*zip(JOBS, expected, strict=True), *zip(JOBS[::-1], expected[::-1], strict=True)]:
        found = fast.load_sweep_config(master, job)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(wanted), job
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)  # in the same order
        assert OmegaConf.is_struct(found)
        OmegaConf.update(found, "model._target_", "changed.by.a.job")
    assert len({id(config) for config in fast._composed.values()}) < len(JOBS)


def test_what_is_wrong_is_refused_in_the_same_words(loaders):
    plain, fast, master = loaders
    for job in WRONG:
        said = []
        for loader in (plain, fast):
            with pytest.raises(HydraException) as error:
                loader.load_sweep_config(master, job)
            said.append((type(error.value), str(error.value)))
        assert said[0] == said[1]


def test_jobs_that_differ_in_values_cost_little(loaders):
    plain, fast, master = loaders
    seconds = []
    for loader in (plain, fast):
        loader.load_sweep_config(master, ["model=dare"])
        started = time.process_time()
        for scaling in (0.1, 0.2, 0.3, 0.4):
            loader.load_sweep_config(master, ["model=dare", f"model.scaling={scaling}"])
        seconds.append(time.process_time() - started)
    assert seconds[1] < 0.3 * seconds[0]  # measured: a fifteenth


def test_it_goes_to_other_processes(loaders):
    _, fast, master = loaders
    copied = pickle.loads(pickle.dumps(fast))
    found, wanted = (loader.load_sweep_config(master, JOBS[1]) for loader in (copied, fast))
    assert OmegaConf.to_container(found) == OmegaConf.to_container(wanted)
