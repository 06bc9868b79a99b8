"""The shipped checkpoints keep what the README of the zoo says, and the script that trained them is reproducible."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib.resources import as_file, files

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from torch.nn import functional

from fusion_eval.data.embedded import Embedded
from fusion_eval.merging import Average, TaskArithmetic
from fusion_eval.zoo import Encoder
from fusion_eval.zoo.train import main
from fusion_eval.zoo.training import TASKS, Phase, Protocol, fine_tune, warm_up

ZOO = files("fusion_eval.zoo")
TARGETS = {"optdigits": 0.95, "mnist": 0.96, "scripts": 0.65, "textures": 0.78}


def read(name: str) -> dict[str, torch.Tensor]:
    with as_file(ZOO / f"{name}.safetensors") as file:
        return load_file(file)


def correct(weights: dict[str, torch.Tensor], task: str) -> list[bool]:
    """Which test samples of a task an encoder gets right with the head of the task's expert."""
    encoder = Encoder()
    encoder.load_state_dict(weights)
    head = read(f"{task}.head")
    samples = Embedded(task).load()
    with torch.inference_mode():
        logits = [functional.linear(encoder(part), head["weight"], head["bias"]) for part in samples.inputs.split(256)]
    return (torch.cat(logits).argmax(dim=1) == samples.targets).tolist()


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, list[bool]]]:
    """Row of the README's table to task to which test samples are answered right."""
    base, experts = read("base"), {task: read(task) for task in TASKS}
    models = {
        "base": dict.fromkeys(TASKS, base),
        "average": dict.fromkeys(TASKS, Average()(base, experts)),
        "task arithmetic": dict.fromkeys(TASKS, TaskArithmetic(scaling=claimed_scaling())(base, experts)),
        "experts": experts,
    }
    return {row: {task: correct(weights[task], task) for task in TASKS} for row, weights in models.items()}


def readme() -> str:
    return (ZOO / "README.md").read_text(encoding="utf-8")


def claimed_scaling() -> float:
    return float(re.findall(r"\| task arithmetic, scaling ([\d.]+)", readme())[0])


def claimed(row: str) -> list[float]:
    """The accuracies of one row of the README's table, in percent: the tasks and their mean."""
    line = next(line for line in readme().splitlines() if line.startswith(f"| {row}"))
    return [float(number) for number in re.findall(r"([\d.]+) ±", line)]


@pytest.mark.parametrize("row", ["base", "average", "task arithmetic", "experts"])
def test_readme_states_the_accuracies_of_the_shipped_checkpoints(
    answers: dict[str, dict[str, list[bool]]], row: str
) -> None:
    measured = [accuracy_score([True] * len(right), right) for right in answers[row].values()]
    # One sample may fall to the other side on a machine that adds floats in another order.
    assert [*measured, sum(measured) / 4] == pytest.approx([number / 100 for number in claimed(row)], abs=0.003)


@pytest.mark.parametrize(("task", "least"), TARGETS.items())
def test_experts_are_good(answers: dict[str, dict[str, list[bool]]], task: str, least: float) -> None:
    assert sum(answers["experts"][task]) / len(answers["experts"][task]) >= least


@pytest.mark.parametrize(
    ("worse", "better"), [("base", "average"), ("base", "task arithmetic"), ("task arithmetic", "experts")]
)
def test_merging_is_interesting(answers: dict[str, dict[str, list[bool]]], worse: str, better: str) -> None:
    """The mean accuracy over tasks differs by five standard errors of the paired difference."""
    gap, variance = 0.0, 0.0
    for task in TASKS:
        difference = torch.tensor(answers[better][task]).double() - torch.tensor(answers[worse][task]).double()
        gap += float(difference.mean()) / len(TASKS)
        variance += float(difference.var()) / len(difference) / len(TASKS) ** 2
    assert gap > 5 * math.sqrt(variance)


def test_base_is_far_above_chance(answers: dict[str, dict[str, list[bool]]]) -> None:
    for task, right in answers["base"].items():
        most_frequent = Embedded(task).load().targets.bincount().max() / len(right)
        assert sum(right) / len(right) > most_frequent + 0.1


def test_checkpoints_fit_the_encoder_and_stay_under_six_megabytes() -> None:
    expected = Encoder().state_dict()
    for name in ("base", *TASKS):
        weights = read(name)
        assert {key: tensor.shape for key, tensor in weights.items()} == {
            key: tensor.shape for key, tensor in expected.items()
        }
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())
    for task in TASKS:
        head = read(f"{task}.head")
        classes = len(Embedded(task).load().class_names or ())
        assert {key: tuple(tensor.shape) for key, tensor in head.items()} == {
            "weight": (classes, Encoder.features),
            "bias": (classes,),
        }
    checkpoints = [file for file in ZOO.iterdir() if file.name.endswith(".safetensors")]
    assert len(checkpoints) == 1 + 2 * len(TASKS)
    assert sum(len(file.read_bytes()) for file in checkpoints) < 6_000_000


SHORT = replace(
    Protocol(),
    warm_up=Phase(steps=6, batch_size=16, lr=1e-3, head_lr=1e-3),
    fine_tune=Phase(steps=6, batch_size=16, lr=1e-3, head_lr=1e-3),
)


def test_training_twice_gives_the_same_bits_and_leaves_the_base_alone() -> None:
    def train(seed: int) -> list[torch.Tensor]:
        base, heads = warm_up(replace(SHORT, seed=seed), lambda: None)
        before = [parameter.clone() for parameter in base.parameters()]
        expert, head = fine_tune("scripts", base, heads["scripts"], replace(SHORT, seed=seed), lambda: None)
        assert all(map(torch.equal, before, base.parameters()))
        assert not any(map(torch.equal, before, expert.parameters()))
        return [*expert.parameters(), *head.parameters()]

    first, again, other = train(0), train(0), train(1)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_training_lowers_the_loss_on_the_samples_it_saw() -> None:
    samples = Embedded("optdigits", "train").load()

    def loss(encoder: Encoder, head: torch.nn.Linear) -> float:
        with torch.inference_mode():
            return float(functional.cross_entropy(head(encoder(samples.inputs)), samples.targets))

    base, heads = warm_up(SHORT, lambda: None)
    longer = replace(SHORT, fine_tune=replace(SHORT.fine_tune, steps=40))
    assert loss(*fine_tune("optdigits", base, heads["optdigits"], longer, lambda: None)) < 0.7 * loss(
        base, heads["optdigits"]
    )


def test_help_tells_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--output", "--seed", "--threads"))
