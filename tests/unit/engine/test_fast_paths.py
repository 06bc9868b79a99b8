"""With and without each fast path the results are the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval import Classification, MergedModel, Runner
from fusion_eval.data import Arrays, CheckpointProcessor, DataCache, ImageFolder, ImageTransform, MapStyle
from fusion_eval.data import processor as checkpoint
from fusion_eval.data.prepared import cache
from fusion_eval.engine import access, placement, prepare
from fusion_eval.engine import kind as kind_module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError, DataError, TaskError
from fusion_eval.models import LinearHead
from fusion_eval.tasks import CrossEntropy

METRICS = {
    "accuracy": partial(MulticlassAccuracy, average="micro"),
    "loss": CrossEntropy,
    "f1": partial(MulticlassF1Score, average="macro"),
}


@dataclass(frozen=True)
class Counted(ImageTransform):
    """Counts the images that it decodes, in this process."""

    seen: ClassVar[list[Any]] = []

    def pixels(self, image):
        self.seen.append(image)
        return super().pixels(image)


class Small(nn.Module):
    """A convolutional model whose forwards are counted."""

    forwards: ClassVar[list[Any]] = []

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, pixels):
        self.forwards.append(pixels)
        return self.head(self.conv(pixels).relu().mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(41):
        directory = root / "test" / "abc"[index % 3]
        directory.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{index}.png")
    return str(root)


@pytest.fixture
def task(images):
    return Classification(ImageFolder(images, transform=Counted(size=32)), METRICS)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(runner_module, "process_store", ResultStore())
    monkeypatch.setattr(kind_module, "_sizes", {})
    monkeypatch.setattr(access, "_on_device", type(access._on_device)())
    monkeypatch.setattr(placement, "_copied", {})
    monkeypatch.setattr(cache, "_memory", cache.Memory())
    for shared in ("_samples", "_heads"):
        monkeypatch.setattr(prepare, shared, prepare.Shared(8))
    Counted.seen.clear()
    Small.forwards.clear()


def run(task, model=None, **settings):
    runner_module.process_store._results.clear()
    return Runner(**{"batch_size": 16, **settings}).run("images", task, model or Small())


def trainer(precision):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return partial(pl.Trainer, accelerator="cpu", devices=1, precision=precision, **dict.fromkeys(quiet, False))


def assert_same(result, expected):
    """To the bit."""
    assert result.metrics == expected.metrics
    assert result.standard_errors == expected.standard_errors
    assert result.fingerprints == expected.fingerprints
    assert result.samples.keys() == expected.samples.keys()
    assert all(np.array_equal(result.samples[name], expected.samples[name]) for name in expected.samples)


@pytest.mark.parametrize(
    ("mode", "resident", "precision", "limit"),
    [
        ("disk", "off", "32-true", None),
        ("disk", "auto", "32-true", 17),
        ("disk", "on", "32-true", 17),
        ("memory", "auto", "32-true", None),
        ("memory", "on", "32-true", None),
        ("disk", "auto", "bf16-true", None),
        ("disk", "on", "bf16-mixed", None),
        ("memory", "off", "64-true", 17),
    ],
)
def test_prepared_and_resident_samples_give_the_same_to_the_bit(task, tmp_path, mode, resident, precision, limit):
    expected = run(task, resident="off", limit=limit, trainer=trainer(precision))
    Counted.seen.clear()
    settings = {"limit": limit, "trainer": trainer(precision), "cache": DataCache(mode, str(tmp_path))}
    for _ in range(2):
        assert_same(run(task, resident=resident, **settings), expected)
    assert len(Counted.seen) == (limit or 41)


def test_inputs_that_were_normalised_on_the_device_are_those_of_the_transform(task, tmp_path):
    run(task, cache=DataCache("disk", str(tmp_path)))
    inputs = torch.cat(Small.forwards)
    samples = task.data.load()
    assert torch.equal(inputs, torch.stack([samples[index][0] for index in range(41)]))


def test_what_is_known_is_not_prepared(task, tmp_path):
    settings = {"cache": DataCache("disk", str(tmp_path)), "store": str(tmp_path / "store")}
    run(task, store=settings["store"])
    Counted.seen.clear()
    run(task, **settings)
    assert Counted.seen == []
    assert not (tmp_path / "prepared").exists()


def test_a_transform_whose_code_cannot_be_named_is_not_prepared(images, tmp_path):
    @dataclass(frozen=True)
    class Local(Counted):
        pass

    local = Classification(ImageFolder(images, transform=Local(size=32)), METRICS)
    run(local, cache=DataCache("disk", str(tmp_path)))
    assert not (tmp_path / "prepared").exists()


def test_samples_that_are_no_images_are_prepared_too(tmp_path):
    items = [({"pixels": torch.full((3, 32, 32), float(index))}, index % 3) for index in range(20)]
    task = Classification(MapStyle(items, class_names=["a", "b", "c"]), METRICS)
    expected = run(task)
    assert_same(run(task, cache=DataCache("memory", str(tmp_path))), expected)


@dataclass(frozen=True)
class Uncropped(ImageTransform):
    """Images keep their shapes, and so differ."""

    def pixels(self, image):
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def test_images_that_differ_in_shape_are_prepared_too(images, tmp_path):
    task = Classification(ImageFolder(images, transform=Uncropped()), METRICS)
    expected = run(task, batch_size=1)
    assert_same(run(task, batch_size=1, cache=DataCache("disk", str(tmp_path)), resident="on"), expected)
    assert list((tmp_path / "prepared").glob("*/0.shapes"))


def test_the_processor_of_a_checkpoint_is_split_where_it_can_be(images, tmp_path):
    from transformers import CLIPImageProcessorPil, EfficientNetImageProcessorPil

    for processor in (CLIPImageProcessorPil, EfficientNetImageProcessorPil):  # the second does not end with normalise
        processor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        task = Classification(ImageFolder(images, transform=CheckpointProcessor(str(tmp_path))), METRICS)
        checkpoint._load.cache_clear()
        expected = run(task)
        assert_same(run(task, cache=DataCache("disk", str(tmp_path / processor.__name__))), expected)
        [stored] = (tmp_path / processor.__name__ / "prepared").glob("*/0.values")
        pixels = 41 * 3 * 32 * 32
        assert stored.stat().st_size == pixels if processor is CLIPImageProcessorPil else 4 * pixels


def test_a_broken_image_fails_the_task_and_leaves_no_store(images, tmp_path):
    import shutil

    shutil.copytree(images, tmp_path / "copy")
    next((tmp_path / "copy/test/b").iterdir()).write_bytes(b"no image")
    broken = Classification(ImageFolder(str(tmp_path / "copy"), transform=Counted(size=32)), METRICS)
    with pytest.raises(DataError, match="not a readable image"):
        run(broken, cache=DataCache("disk", str(tmp_path)))
    assert not [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]


def test_targets_are_checked_before_they_go_to_the_device(tmp_path):
    inputs = np.zeros((5, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "test.npz", inputs=inputs, targets=np.array([0, 1, 2, 1, 0]))
    task = Classification(Arrays(str(tmp_path / "test.npz")), METRICS, num_classes=2)
    with pytest.raises(TaskError, match="target 2 is outside the 2 classes"):
        run(task, cache=DataCache("memory"), resident="on")


def test_jobs_share_loaded_samples_and_heads_until_a_file_changes(task, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "head.safetensors"
    task = Classification(task.data, METRICS, head=LinearHead(str(file)))
    losses = []
    for value in (1.0, 1.0, 2.0):
        if not losses or value == 2.0:
            save_file({"weight": torch.arange(9.0).reshape(3, 3) * value}, file)
        losses.append(run(task).metrics["loss"])
    assert losses[0] == losses[1] != losses[2]
    assert losses[2] == run(task, resident="off").metrics["loss"]


def test_bf16_is_close_and_the_model_is_copied_once_for_all_tasks(task, monkeypatch):
    copies = []
    original = placement.copy.deepcopy
    monkeypatch.setattr(
        placement.copy, "deepcopy", lambda value, *memo: copies.append(type(value)) or original(value, *memo)
    )
    model, runner = Small(), {"trainer": trainer("bf16-true")}
    exact = run(task, model)
    for _ in range(2):
        result = run(task, model, **runner)
        assert result.metrics["loss"] == pytest.approx(exact.metrics["loss"], abs=0.02)
    assert copies.count(Small) == 1
    model.head.bias.data += torch.tensor([1.0, 0.0, 0.0])
    changed = run(task, model, **runner)
    assert changed.metrics["loss"] == pytest.approx(run(task, model).metrics["loss"], abs=0.02)
    assert changed.metrics["loss"] != result.metrics["loss"]
    assert model.conv.weight.dtype == torch.float32


def test_channels_last_is_the_same_but_for_rounding_and_leaves_the_model_as_it_was(task):
    model = Small()
    expected = run(task, model)
    Small.forwards.clear()
    result = run(task, model, channels_last=True)
    assert Small.forwards[0].is_contiguous(memory_format=torch.channels_last)
    assert result.metrics == pytest.approx(expected.metrics, abs=1e-6)
    assert model.conv.weight.is_contiguous()


def test_compiled_models_give_the_same_but_for_rounding_and_share_what_was_compiled(task):
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    for seed in (0, 1):
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        model = MergedModel(nn.Sequential(*layers), {})
        expected = run(task, model)
        result = run(task, model, compile=True)
        assert result.metrics == pytest.approx(expected.metrics, abs=1e-5)
        assert "forward" not in vars(model.backbone)
    assert counters["stats"]["unique_graphs"] == 1  # and none for the last batch, which is smaller


def test_a_compiled_result_is_another_one_and_a_faster_layout_is_not(task):
    known = run(task)
    assert Runner(batch_size=16, channels_last=True).run("images", task, Small()) is known
    assert Runner(batch_size=16, cache=DataCache("memory"), resident="on").run("images", task, Small()) is known
    assert "compile" in Runner(compile=True)._settings
    assert "compile" not in Runner()._settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": "many"}, "batch_size: expected an integer >= 1, found 'many'; auto finds the fastest"),
        ({"resident": "yes"}, "resident: expected one of auto, on, off; found 'yes'"),
        ({"compile": "fast"}, "compile: expected one of True, False, default, .*; found 'fast'"),
        ({"channels_last": None}, "channels_last: expected one of True, False; found None"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Runner(**settings)
