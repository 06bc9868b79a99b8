"""Nothing is evaluated twice: not by the next run, not beside another process, not after a kill -9."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter

import pytest

from fusion_eval.engine.store_command import list_entries, verify_entries

SMALL = ("limit=60", "bootstrap=0", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")
SWEEP = ("-m", *SMALL, "model=average,task_arithmetic", "model.scaling=0.2,0.4")
EVALUATED = re.compile(r"^(\w+ on \w+) +accuracy", re.MULTILINE)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "cache/results"


@pytest.fixture
def start(forks, environment, tmp_path):
    """`start(*arguments)`: the command in the background, and the file of its standard error."""
    started = []

    def run(*arguments):
        log = tmp_path / f"{len(started)}.log"
        process = forks.start(["-m", "fusion_eval", *arguments], tmp_path, environment, tmp_path / "stdout", log)
        started.append(process)
        return process, log

    yield run
    for process in started:
        process.kill()


@pytest.fixture
def finish(fusion_eval):
    """`finish(*arguments)`: run the command to its end; returns its standard error."""
    return lambda *arguments: fusion_eval(*arguments).stderr


def evaluated(stderr):
    """What a process says that it ran."""
    return Counter(EVALUATED.findall(stderr))


def contents(directory):
    """All files of a run or sweep, but for when they were made and by which command."""
    found = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.name == "report.json":
            document = json.loads(path.read_text())
            for timed in ("provenance", "seconds", "evaluated_at", "digest"):
                document.pop(timed, None)
            found[name] = document
        elif path.suffix == ".parquet":
            found[name] = path.read_bytes()
    return found


def test_the_same_command_again_evaluates_nothing_and_leaves_the_same(finish, started_alone, tmp_path, store):
    first = evaluated(started_alone(*SMALL, "hydra.run.dir=first").stderr)  # what is hashed hashes otherwise
    assert sum(first.values()) == len(list_entries(store)) == 6
    assert not evaluated(finish(*SMALL, "hydra.run.dir=again", "batch_size=7"))
    assert contents(tmp_path / "first") == contents(tmp_path / "again") != {}
    seconds = [json.loads((tmp_path / run / "report.json").read_text())["seconds"] for run in ("first", "again")]
    assert seconds[0] == seconds[1]
    assert evaluated(finish(*SMALL, "hydra.run.dir=off", "store=off")) == first
    assert contents(tmp_path / "off") == contents(tmp_path / "first")


def test_what_is_wrong_with_a_store_is_a_warning(finish, tmp_path, store):
    (tmp_path / "file").touch()
    said = finish(*SMALL, "hydra.run.dir=first", "store.path=file/store")
    assert said.count("the result store file/store fails") == 1
    finish(*SMALL, "hydra.run.dir=second")
    victim = next(entry.path for entry in list_entries(store) if entry.label == "merged on mnist")
    victim.write_bytes(victim.read_bytes()[:-100])
    said = finish(*SMALL, "hydra.run.dir=third")
    assert evaluated(said) == {"merged on mnist": 1}
    assert f"{victim.name} is damaged" in said
    assert contents(tmp_path / "first") == contents(tmp_path / "second") == contents(tmp_path / "third")
    assert verify_entries(store) == {}


def test_a_model_merged_elsewhere_is_known_by_its_weights_not_by_its_file(finish, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    import fusion_eval

    weights = load_file(f"{fusion_eval.__path__[0]}/zoo/mnist.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "model.pt")
    save_file(weights, tmp_path / "model.safetensors")
    command = (*SMALL, "references=false", "model=checkpoint", "hydra.run.dir=run")
    first = evaluated(finish(*command, "model.path=model.pt"))
    assert sum(first.values()) == 2
    assert not evaluated(finish(*command, "model.path=model.safetensors"))
    weights[next(iter(weights))].view(-1)[0] += 1e-3
    save_file(weights, tmp_path / "model.safetensors")
    assert evaluated(finish(*command, "model.path=model.safetensors")) == first


def test_a_sweep_is_shared_by_processes_and_survives_being_killed(finish, start, tmp_path, store):
    together = [start(*SWEEP, f"hydra.sweep.dir={name}") for name in ("left", "right")]
    assert [sweep.wait(300) for sweep, _ in together] == [0, 0]
    said = [evaluated(log.read_text()) for _, log in together]
    whole = {
        **{f"merged on {task}": 4 for task in ("mnist", "optdigits")},
        **{f"{model} on {task}": 1 for task in ("mnist", "optdigits") for model in ("base", "expert")},
    }
    assert said[0] + said[1] == whole
    assert contents(tmp_path / "left") == contents(tmp_path / "right")
    assert len(contents(tmp_path / "left")) == 4 * 7  # a report; two tasks of merge, base and experts

    elsewhere = tmp_path / "elsewhere"
    resumed = (*SWEEP, "hydra.sweep.dir=killed", f"store.path={elsewhere}")
    before: Counter[str] = Counter()
    for _ in range(3):
        sweep, log = start(*resumed)
        time.sleep(random.uniform(0, 3))
        sweep.kill()
        before += evaluated(log.read_text() if log.exists() else "")
        assert verify_entries(elsewhere) == {}
    kept = Counter(entry.label for entry in list_entries(elsewhere))
    assert kept >= before
    assert kept + evaluated(finish(*resumed)) == whole
    assert contents(tmp_path / "killed") == contents(tmp_path / "left")


def test_ranks_agree_on_what_is_known(finish, tmp_path, store):
    """Known, unknown, known: Lightning starts the second process at the unknown one, and it repeats the first."""
    tasks = ("+task@taskpool.tasks.again=mnist", "taskpool.tasks.again.data.split=val")
    command = (*SMALL, *tasks, "references=false")
    finish(*command, "hydra.run.dir=one")
    next(entry.path for entry in list_entries(store) if entry.label == "merged on mnist").unlink()
    ranks = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    assert evaluated(finish(*command, *ranks, "hydra.run.dir=two")) == {"merged on mnist": 1}
    one, two = (json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two"))
    assert list(one["report"]) == list(two["report"]) == ["optdigits", "mnist", "again"]
    assert two["report"]["mnist"] == pytest.approx(one["report"]["mnist"], abs=1e-6)
    assert {**two["report"], "mnist": None} == {**one["report"], "mnist": None}
    assert len(list_entries(store)) == 3
