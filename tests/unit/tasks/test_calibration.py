"""Calibration data is drawn, seeded and bounded, from what is not evaluated, or refused with one message."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays, Embedded, HuggingFace, ImageFolder, ImageTransform, MapStyle, Table
from fusion_eval.errors import ConfigError, DataError, TaskError
from fusion_eval.merging.calibration import Calibration as Protocol
from fusion_eval.models import LinearHead, ModelPool
from fusion_eval.tasks import Classification
from fusion_eval.tasks.calibration import Calibration
from fusion_eval.zoo import Encoder

accuracy = {"accuracy": partial(MulticlassAccuracy, average="micro")}
models = ModelPool(
    Encoder,
    "pkg://fusion_eval.zoo/base.safetensors",
    {},
    {name: LinearHead(f"pkg://fusion_eval.zoo/{name}.head.safetensors") for name in ("mnist", "optdigits")},
)


def embedded(**options):
    tasks = {name: Classification(Embedded(name), accuracy) for name in ("mnist", "optdigits")}
    return Calibration(tasks, models, **{"samples": 50, **options})


def toy(evaluated, calibration, **options):
    """One task, evaluated on one source and calibrated on another."""
    task = Classification(evaluated, accuracy, num_classes=2)
    data = {} if calibration is None else {"toy": calibration}
    return Calibration({"toy": task}, ModelPool(lambda: nn.Linear(2, 2), "nowhere", {}), data=data, **options)


def pairs(*numbers):
    return MapStyle([([float(number), 1.0], int(number) % 2) for number in numbers])


def rows(calibration, expert="toy"):
    return torch.cat([inputs for inputs, _ in calibration.batches(expert)])


def test_it_is_what_methods_ask_for():
    assert isinstance(embedded(), Protocol)


def test_samples_are_of_the_other_split_drawn_and_seeded():
    samples = embedded(samples=64, batch_size=20)
    batches = list(samples.batches("mnist"))
    assert [len(targets) for _, targets in batches] == [16, 16, 16, 16]
    train, test = Embedded("mnist", "train").load(), Embedded("mnist").load()
    order = np.random.default_rng(0).permutation(len(train))[:64]
    assert torch.equal(torch.cat([targets for _, targets in batches]), train.targets[order])
    assert torch.equal(rows(samples, "mnist"), train.inputs[order])
    assert not {image.numpy().tobytes() for image in rows(samples, "mnist")} & {
        image.numpy().tobytes() for image in test.inputs
    }
    assert torch.equal(rows(embedded(samples=64), "mnist"), rows(samples, "mnist"))
    assert not torch.equal(rows(embedded(samples=64, seed=1), "mnist"), rows(samples, "mnist"))


def test_batches_differ_by_one_sample_at_most():
    samples = toy(pairs(100), pairs(*range(10)), batch_size=4)
    assert [len(targets) for _, targets in samples.batches("toy")] == [4, 3, 3]
    assert [len(targets) for _, targets in samples.batches("toy", size=1)] == [1] * 10
    assert [len(targets) for _, targets in samples.batches("toy", size=99)] == [10]


def test_outputs_are_those_of_backbone_and_head():
    samples = embedded()
    backbone = samples.backbone()
    batch = next(samples.batches("mnist"))
    logits = samples.outputs("mnist", backbone, batch)
    assert torch.equal(logits, models.heads["mnist"].load()(backbone(batch[0])))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not backbone.training


def test_nothing_is_loaded_before_it_is_asked_for():
    samples = toy(Table("nowhere.csv", "y", split_column="s", split="test"), None)
    assert samples.backbone().weight.requires_grad
    with pytest.raises(DataError, match=r"calibration data of task 'toy': nowhere\.csv"):
        next(samples.batches("toy"))


def test_the_record_says_what_was_used_and_json_holds_it():
    samples = embedded()
    record = samples.record(["mnist", "optdigits"])
    assert record["seed"] == 0
    assert record["experts"]["mnist"] | {"fingerprint": ""} == {
        "task": "mnist",
        "split": "train",
        "samples": 50,
        "left_out": 0,
        "fingerprint": "",
    }
    prints = {
        one.record(["mnist"])["experts"]["mnist"]["fingerprint"]
        for one in (samples, embedded(), embedded(seed=1), embedded(samples=49), embedded(split="val"))
    }
    assert len(prints) == 4


def test_identities_differ_with_what_outputs_depend_on():
    same, *others = (
        embedded(**options).identity("mnist") for options in ({}, {"seed": 1}, {"batch_size": 3}, {"split": "val"})
    )
    assert same == embedded().identity("mnist")
    assert same not in others
    assert same != embedded().identity("optdigits")
    assert hash(same)


@pytest.mark.parametrize("split", ["test", "train", "val"])
def test_the_split_that_is_evaluated_is_refused(split):
    tasks = {"mnist": Classification(Embedded("mnist", split), accuracy)}
    with pytest.raises(ConfigError, match=f"task 'mnist': its split '{split}' is evaluated; set calibration.split"):
        next(Calibration(tasks, models, split=split).batches("mnist"))


def test_a_split_that_another_task_of_the_expert_evaluates_is_refused():
    tasks = {
        name: Classification(Embedded("mnist", split), accuracy, head="mnist")
        for name, split in {"first": "test", "second": "train"}.items()
    }
    with pytest.raises(ConfigError, match="split 'train' is evaluated"):
        next(Calibration(tasks, models).batches("mnist"))
    assert len(rows(Calibration(tasks, models, split="val", samples=9), "mnist")) == 9


def save(path, numbers):
    np.savez(path, inputs=np.array([[number, 1.0] for number in numbers], np.float32), targets=np.array(numbers) % 2)
    return Arrays(str(path))


def test_the_same_data_in_another_file_or_order_is_refused(tmp_path):
    evaluated = save(tmp_path / "test.npz", range(40))
    for numbers in (range(40), range(39, -1, -1), range(10, 30)):
        copy = save(tmp_path / "copy.npz", numbers)
        with pytest.raises(ConfigError, match=rf"{min(16, len(numbers))} of 16 samples are also evaluated"):
            next(toy(evaluated, copy, samples=16).batches("toy"))


def test_samples_that_are_evaluated_are_left_out(tmp_path):
    samples = toy(save(tmp_path / "test.npz", range(20)), save(tmp_path / "all.npz", range(200)), samples=64)
    assert rows(samples)[:, 0].min() >= 20
    record = samples.record(["toy"])["experts"]["toy"]
    assert record["samples"] == 64
    assert 0 < record["left_out"] < 20


def test_the_same_data_is_found_where_it_has_to_be_decoded(tmp_path):
    for root in ("original", "copy"):
        for index in range(6):
            folder = tmp_path / root / "test" / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (40 * index, 0, 0)).save(folder / f"{index}.png")
    transform = ImageTransform(size=4)
    original, copy = (ImageFolder(str(tmp_path / root), transform=transform) for root in ("original", "copy"))
    with pytest.raises(ConfigError, match="6 of 6 samples are also evaluated"):
        next(toy(original, copy).batches("toy"))
    assert len(rows(toy(original, pairs(*range(6))))) == 6


@pytest.mark.parametrize("source", [Arrays("x.npz"), ImageFolder("x", split=None), Table("x.csv", "y"), pairs(1, 2)])
def test_a_source_without_splits_needs_other_data(source):
    text = rf"task 'toy': {type(source).__name__} has no splits to choose 'train' from.*dataset@calibration\.data\.toy="
    with pytest.raises(ConfigError, match=text):
        next(toy(source, None).batches("toy"))


def test_only_the_split_of_a_source_is_replaced():
    source = HuggingFace("mnist", revision="main")
    samples = toy(source, None)
    assert samples._source("toy", [source]) == HuggingFace("mnist", revision="main", split="train")


def test_inputs_may_be_mappings():
    def token(number):
        return {"input_ids": torch.tensor([number, 0]), "attention_mask": torch.tensor([1, 1])}

    source = MapStyle([(token(number), number % 2) for number in range(5)])
    samples = toy(pairs(9), source, batch_size=2)
    inputs = [batch for batch, _ in samples.batches("toy")]
    assert [batch["input_ids"].shape for batch in inputs] == [(2, 2), (2, 2), (1, 2)]
    assert sorted(int(row[0]) for batch in inputs for row in batch["input_ids"]) == [0, 1, 2, 3, 4]


def test_targets_are_checked():
    with pytest.raises(TaskError, match=r"calibration data of task 'toy': target 7 is outside the 2 classes"):
        next(toy(pairs(100), MapStyle([([0.0, 0.0], 7)])).batches("toy"))


def test_an_expert_without_a_task_and_a_head_that_is_not_there_are_named():
    with pytest.raises(ConfigError, match=r"expert 'svhn' has no calibration data.*~modelpool\.experts\.svhn"):
        embedded().record(["svhn"])
    tasks = {"digits": Classification(Embedded("mnist"), accuracy, head="mnits")}
    with pytest.raises(ConfigError, match="no head 'mnits'; did you mean 'mnist'"):
        next(Calibration(tasks, models).batches("mnits"))


def test_a_head_of_the_task_itself_is_used():
    task = Classification(Embedded("mnist"), accuracy, head=models.heads["mnist"])
    samples = Calibration({"mnist": task}, ModelPool(Encoder, "nowhere", {}), samples=3)
    assert samples.outputs("mnist", samples.backbone(), next(samples.batches("mnist"))).shape == (3, 10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "calibration.samples: expected an integer >= 1, found 0"),
        ({"batch_size": True}, "calibration.batch_size: expected an integer >= 1, found True"),
        ({"seed": -1}, "calibration.seed: expected an integer >= 0"),
        ({"split": None}, "calibration.split: expected the name of a split"),
        ({"data": {"mnits": Embedded("mnist")}}, "calibration.data: no task 'mnits'; did you mean 'mnist'"),
    ],
)
def test_arguments_are_checked(options, text):
    with pytest.raises(ConfigError, match=text):
        embedded(**options)
