"""Supervised classifiers of transformers, with random weights on disk, through the configs of the pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion_eval import build, compose

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {"image_size": 32, "patch_size": 8, **SIZES}
ARCHITECTURES = {
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "ViT": PATCHES,
    "Dinov2": PATCHES,
}
TASKS = {
    "sun397": 397,
    "stanford_cars": 196,
    "resisc45": 45,
    "eurosat": 10,
    "svhn": 10,
    "gtsrb": 43,
    "mnist": 10,
    "dtd": 47,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight data sets as `save_to_disk` leaves them, nine images each."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, classes in TASKS.items():
        labels = datasets.ClassLabel(names=[f"{name} {number}" for number in range(classes)])
        features = datasets.Features({"image": datasets.Image(), "label": labels})
        images = [draw.integers(0, 256, (int(draw.integers(30, 50)), 40, 3), dtype=np.uint8) for _ in range(9)]
        rows = {"image": images, "label": draw.integers(0, classes, 9).tolist()}
        datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features)}).save_to_disk(folder / name)
    return folder


def save(kind, classes, seed, place):
    """A classifier with random weights and its image processor, as fine-tuning leaves them."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**ARCHITECTURES[kind], num_labels=classes)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for name, buffer in model.named_buffers():  # of batch norm, as if it had been trained
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    model.save_pretrained(place)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_std=[0.3, 0.3, 0.2]).save_pretrained(
        place
    )
    return model


def overrides(data, models, tasks):
    return [
        "taskpool=image_classification",
        "modelpool=image_classification",
        f"modelpool.base={models / 'base'}",
        *(f"modelpool.experts.{task}={models / task}" for task in tasks),
        *(f"taskpool.tasks.{task}.data.path={data / task}" for task in tasks),
        *(f"taskpool.tasks.{task}.data.{field}=null" for task in tasks for field in ("expected_size", "name")),
        *(f"~{node}.{task}" for task in TASKS if task not in tasks for node in NODES),
        "batch_size=4",
        "bootstrap=0",
        "progress=false",
        "store=off",
    ]


NODES = ("taskpool.tasks", "modelpool.experts", "modelpool.heads")


def pixels(data, task, base):
    """The images as transformers' own processor makes them, and the labels."""
    processor = transformers.AutoImageProcessor.from_pretrained(base, use_fast=False)
    rows = datasets.load_from_disk(str(data / task))["test"]
    images = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt").pixel_values
    return images, torch.tensor(rows["label"])


def made(settings):
    cfg = compose(settings)
    return build(cfg.modelpool).merge(build(cfg.model)).eval(), build(cfg.taskpool), build(cfg.runner)


@torch.no_grad()
def test_the_pool_runs_with_nothing_but_its_paths_overridden(data, tmp_path):
    save("ConvNext", 1000, 0, tmp_path / "base")
    experts = {
        task: save("ConvNext", classes, seed, tmp_path / task) for seed, (task, classes) in enumerate(TASKS.items())
    }
    model, pool, runner = made([*overrides(data, tmp_path, TASKS), "model=average"])
    report = pool.evaluate(model, runner)
    assert list(report) == list(TASKS)
    weights = [expert.base_model.state_dict() for expert in experts.values()]
    mean = {name: torch.stack([one[name] for one in weights]).mean(dim=0) for name in weights[0]}
    for task, expert in experts.items():
        expert.base_model.load_state_dict(mean)  # transformers' own forward of the mean, with the head of the task
        images, labels = pixels(data, task, tmp_path / "base")
        logits = expert(images).logits
        assert report[task]["accuracy"] == pytest.approx(float((logits.argmax(dim=1) == labels).float().mean()))
        assert report[task]["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Dinov2", "ResNet", "ViT"])
def test_an_expert_is_its_whole_classifier_for_any_architecture(kind, data, tmp_path):
    save(kind, 1000, 0, tmp_path / "base")
    expert = save(kind, TASKS["dtd"], 1, tmp_path / "dtd")
    model, pool, _ = made([*overrides(data, tmp_path, ["dtd"]), "model=expert", "model.name=dtd"])
    task = pool.tasks["dtd"]
    samples = task.data.load()
    batch = samples.collate([samples[index] for index in range(len(samples))])
    images, labels = pixels(data, "dtd", tmp_path / "base")
    prediction = task.predict(model, model.heads["dtd"].eval(), batch, samples)
    assert torch.equal(batch[1], labels)
    assert prediction.outputs.numpy() == pytest.approx(expert(images).logits.numpy(), abs=1e-5)


@torch.no_grad()
def test_a_saved_merge_is_a_checkpoint_of_transformers(data, tmp_path):
    save("ViT", 1000, 0, tmp_path / "base")
    for seed, task in enumerate(("eurosat", "dtd"), 1):
        save("ViT", TASKS[task], seed, tmp_path / task)
    cfg = compose([*overrides(data, tmp_path, ("eurosat", "dtd")), "model=average"])
    merged = build(cfg.modelpool).merge(build(cfg.model), tmp_path / "merged")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    images, _ = pixels(data, "dtd", tmp_path / "base")
    expected = loaded.vit(images).last_hidden_state
    assert merged.eval()(images).last_hidden_state.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
