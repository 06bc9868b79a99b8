"""The config of a single run is what Hydra composes in two rounds, composed in one."""

from __future__ import annotations

import pytest
from hydra import initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from fusion_eval.config import _fresh_hydra
from fusion_eval.run_loader import RunLoader

RUNS = [
    [],
    ["model=ties", "model.density=0.3", "hydra.run.dir=x"],
    ["~taskpool.tasks.mnist", "+task@taskpool.tasks.again=mnist", "taskpool.tasks.again.data.split=val"],
    ["hydra.verbose=true", "++foo=3", "+bar={a: 1}"],
    ["hydra.mode=RUN"],
]
WRONG = [["model=nope"], ["model.nope=3"], ["model.scaling=1,2"], ["model=average,ties"], ["model.scaling=[1"]]


@pytest.fixture(scope="module")
def search_path():
    with _fresh_hydra(), initialize_config_module("fusion_eval.conf", version_base="1.3"):
        yield GlobalHydra.instance().hydra.config_loader.get_search_path()


@pytest.fixture
def composed(monkeypatch):
    """What was composed in full: one entry each time."""
    times = []
    whole = ConfigLoaderImpl._load_configuration_impl
    monkeypatch.setattr(
        ConfigLoaderImpl, "_load_configuration_impl", lambda *a, **k: times.append(k["run_mode"]) or whole(*a, **k)
    )
    return times


def as_the_command(loader, overrides):
    """The two steps of Hydra's command: mode, and config."""
    hydra = Hydra("fusion-eval", loader)
    mode = hydra.get_mode("config", overrides)
    given = [*overrides, "hydra.mode=RUN"] if mode is None else overrides
    return mode, hydra.compose_config("config", given, run_mode=RunMode.RUN)


@pytest.mark.parametrize("overrides", RUNS)
def test_a_run_is_what_hydra_makes_of_it(search_path, composed, overrides):
    (mode, found), (wanted_mode, wanted) = (
        as_the_command(kind(search_path), overrides) for kind in (RunLoader, ConfigLoaderImpl)
    )
    assert mode == wanted_mode
    assert OmegaConf.to_container(found) == OmegaConf.to_container(wanted)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)  # in the same order
    assert OmegaConf.is_struct(found)
    assert len(composed) == (2 if "hydra.mode=RUN" in overrides else 1) + 2


@pytest.mark.parametrize("overrides", WRONG)
def test_what_is_wrong_is_refused_in_the_same_words(search_path, overrides):
    said = []
    for kind in (RunLoader, ConfigLoaderImpl):
        with pytest.raises(HydraException) as error:
            as_the_command(kind(search_path), overrides)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize("overrides", [["experiment=scaling"], ["model.scaling=1,2", "hydra.mode=MULTIRUN"]])
def test_what_asks_for_a_sweep_is_composed_as_one(search_path, composed, overrides):
    hydra = Hydra("fusion-eval", RunLoader(search_path))
    assert hydra.get_mode("config", overrides) is RunMode.MULTIRUN
    hydra.compose_config("config", overrides, run_mode=RunMode.MULTIRUN)
    assert composed[-1] is RunMode.MULTIRUN


def test_it_is_used_up(search_path):
    """A second run in one process has a config of its own."""
    hydra = Hydra("fusion-eval", RunLoader(search_path))
    hydra.get_mode("config", [])
    one, other = (hydra.compose_config("config", ["hydra.mode=RUN"], run_mode=RunMode.RUN) for _ in range(2))
    assert one is not other
    assert OmegaConf.to_container(one) == OmegaConf.to_container(other)


@pytest.mark.parametrize("choice", ["3", "true", "1.5", "cpu,3"])
def test_a_group_that_is_given_a_number_is_named_with_its_options(search_path, choice):
    with pytest.raises(HydraException, match=f"trainer={choice}: expected one of .*cpu, .*gpu"):
        as_the_command(RunLoader(search_path), [f"trainer={choice}"])
