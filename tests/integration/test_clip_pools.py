"""The CLIP pools, by their configs with only paths overridden, on a small CLIP and small data in the hub's own form."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from fusion_eval import Runner, build, compose
from fusion_eval.data import Corruption
from fusion_eval.models.clip.prompts import Prompts

ORACLE = Path(__file__).parents[1] / "oracles/clip"
TA8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
TALL14 = (*TA8, "oxford_flowers102", "pcam", "fer2013", "oxford_iiit_pet", "stl10", "cifar100")
TALL20 = (*TALL14, "cifar10", "food101", "fashion_mnist", "emnist_letters", "kmnist", "rendered_sst2")
ROBUSTNESS = ("stanford_cars", "eurosat", "resisc45", "gtsrb")
ALONE = ("imagenet", "tiny_imagenet", "cub_200_2011")
SPLITS = {"food101": "validation", "imagenet": "validation", "tiny_imagenet": "valid"}
COLUMNS = {"fer2013": ("jpg", "cls")}


@pytest.fixture(scope="module")
def golden():
    return load_file(ORACLE / "golden.safetensors")


def save(directory: Path, task: str, images, targets) -> str:
    """A split as `save_to_disk` leaves it, with the columns that the data set has on the hub."""
    image, label = COLUMNS.get(task, ("image", "label"))
    classes = len(Prompts.read(task).classes)
    kind = {
        "pcam": datasets.Value("bool"),
        "fer2013": datasets.Value("int64"),
    }.get(task, datasets.ClassLabel(num_classes=classes))
    rows = datasets.Dataset.from_dict(
        {image: [Image.fromarray(one) for one in images], label: targets},
        features=datasets.Features({image: datasets.Image(), label: kind}),
        split=SPLITS.get(task, "test"),
    )
    rows.save_to_disk(directory / task)
    return str(directory / task)


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    """Task to the directory of its split."""
    directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    paths = {}
    for task in (*TALL20, *ALONE):
        if task in TA8:
            images, targets = golden[f"{task}/images"].numpy(), golden[f"{task}/targets"].tolist()
        else:
            images = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
            targets = rng.integers(0, len(Prompts.read(task).classes), 6).tolist()
        paths[task] = save(directory, task, images, targets)
    return paths


def paths_of(tasks, data):
    """The overrides: where things lie, and that the small data do not have the published size."""
    of_data = [f"taskpool.tasks.{task}.data.path={data[task]}" for task in tasks]
    sizes = [f"taskpool.tasks.{task}.data.expected_size=null" for task in tasks]
    experts = [f"modelpool.experts.{task}={ORACLE / ('first' if i % 2 else 'second')}" for i, task in enumerate(tasks)]
    return [*of_data, *sizes, *experts, f"modelpool.base={ORACLE / 'base'}"]


def evaluate(overrides, batch_size=128):
    cfg = compose(overrides)
    model = build(cfg.modelpool).merge(build(cfg.model))
    return build(cfg.taskpool).evaluate(model, Runner(bootstrap=0, batch_size=batch_size))


def test_the_report_of_ta8_is_that_of_fusion_bench(golden, data):
    """Accuracy exactly, and the loss, as its batch size divides the number of images."""
    chosen = ["taskpool=clip_vit_b32_ta8", "modelpool=clip_vit_b32_ta8", "model=expert", "model.name=stanford_cars"]
    report = evaluate([*chosen, *paths_of(TA8, data)], batch_size=5)
    assert list(report) == list(TA8)
    for task in TA8:
        assert report[task]["accuracy"] == pytest.approx(float(golden[f"{task}/accuracy"]), abs=1e-7)
        assert report[task]["loss"] == pytest.approx(float(golden[f"{task}/loss"]), abs=1e-5)
        logits, targets = golden[f"{task}/logits"], golden[f"{task}/targets"]
        columns = report.results[task].samples
        assert columns["prediction"].tolist() == logits.argmax(dim=1).tolist()
        expected = functional.cross_entropy(logits, targets, reduction="none").numpy()
        np.testing.assert_allclose(columns["loss"], expected, atol=2e-5)


def test_the_tasks_that_tall20_adds_run(data):
    names = ["taskpool=clip_vit_l14_tall20", "modelpool=clip_vit_l14_tall20", "model=task_arithmetic"]
    cfg = compose([*names, *paths_of(TALL20, data)])
    pool = build(cfg.taskpool)
    assert list(pool.tasks) == list(TALL20)
    model = build(cfg.modelpool).merge(build(cfg.model))
    report = pool.select(TALL20[len(TA8) :]).evaluate(model, Runner(bootstrap=0))
    assert all(np.isfinite(list(metrics.values())).all() for metrics in report.values())
    assert {result.count for result in report.results.values()} == {6}


OTHER_POOLS = {
    **{f"clip_vit_{size}_ta8": TA8 for size in ("b16", "l14")},
    **{f"clip_vit_{size}_tall14": TALL14 for size in ("b32", "b16", "l14")},
    **{f"clip_vit_{size}_tall20": TALL20 for size in ("b32", "b16")},
    **{"clip_ta8": TA8, "clip_tall14": TALL14, "clip_tall20": TALL20},
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The text heads are the same in all pools: they are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSION_EVAL_CACHE", str(tmp_path_factory.mktemp("heads")))
        yield


@pytest.mark.usefixtures("heads")
@pytest.mark.parametrize("name", OTHER_POOLS)
def test_the_other_pools_run(name, data):
    """The same tasks by other configs: two tasks of each, the first one and the last."""
    tasks = OTHER_POOLS[name]
    models = name if name.startswith("clip_vit") else name.replace("clip_", "clip_vit_b32_")
    cfg = compose([f"taskpool={name}", f"modelpool={models}", "model=average", *paths_of(tasks, data)])
    pool = build(cfg.taskpool)
    assert list(pool.tasks) == list(tasks)
    model = build(cfg.modelpool).merge(build(cfg.model))
    report = pool.select([tasks[0], tasks[-1]]).evaluate(model, Runner(bootstrap=0))
    assert all(np.isfinite(list(metrics.values())).all() for metrics in report.values())


@pytest.mark.usefixtures("heads")
@pytest.mark.parametrize("task", [*TALL20, *ALONE])
def test_a_task_alone_runs(task, data):
    of_task = [line for line in paths_of((*TALL20, *ALONE), data) if f"tasks.{task}." in line]
    models = ["modelpool=clip_vit_b32_tall20", f"modelpool.base={ORACLE / 'base'}", "model=base"]
    report = evaluate([f"taskpool=clip_single_{task}", *models, *of_task])
    assert list(report) == [task]
    assert report.results[task].count in (6, 12)


def test_every_clip_pool_runs_here():
    shipped = {file.stem for file in (Path(__file__).parents[2] / "conf/taskpool").glob("clip_*.yaml")}
    alone = {f"clip_single_{task}" for task in (*TALL20, *ALONE)}
    others = {"clip_vit_b32_ta8", "clip_vit_l14_tall20", "clip_vit_b32_robustness", "clip_vit_b32_corrupted"}
    assert shipped == alone | set(OTHER_POOLS) | others


def test_a_pool_has_an_expert_for_each_task_and_takes_the_rest_from_the_base():
    cfg = compose(["taskpool=clip_vit_b16_tall14", "modelpool=clip_vit_b16_tall14", "modelpool.base=here"])
    models, pool = build(cfg.modelpool), build(cfg.taskpool)
    assert list(pool.tasks) == list(models.experts) == list(TALL14)
    assert models.architecture.keywords == {"checkpoint": "here"}
    for task, path in models.experts.items():
        assert path.replace("-", "_") == f"tanganke/clip_vit_base_patch16_{task}"
    for task in pool.tasks.values():
        assert task.head.text_tower.checkpoint == task.data.transform.path == "here"
        assert task.num_classes == len(task.head.prompts().classes)


@pytest.mark.parametrize("named_by", ["transformers 4", "transformers 5"])
def test_experts_may_be_adapters(tmp_path, named_by):
    """As PEFT saves them, with the names that version 4 of transformers gave the parts of a vision encoder, or 5."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        CLIPVisionModel.from_pretrained(ORACLE / "base"),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    ).eval()
    adapted.save_pretrained(tmp_path)
    if named_by == "transformers 4":
        file = tmp_path / "adapter_model.safetensors"
        rename = ("base_model.model.encoder", "base_model.model.vision_model.encoder")
        save_file({name.replace(*rename): tensor for name, tensor in load_file(file).items()}, file)
    places = [f"modelpool.base={ORACLE / 'base'}", f"modelpool.experts.dtd={tmp_path}"]
    cfg = compose(["modelpool=clip_vit_b16_ta8_lora", "model=expert", "model.name=dtd", *places])
    merged = build(cfg.modelpool).merge(build(cfg.model)).backbone.eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(merged(pixels).pooler_output, adapted(pixels).pooler_output, atol=1e-5, rtol=0)


def encode(name, images):
    """Features of an expert, by transformers alone."""
    processor = CLIPImageProcessorPil.from_pretrained(ORACLE / "base")
    with torch.no_grad():
        encoder = CLIPVisionModel.from_pretrained(ORACLE / name).eval()
        return encoder(processor(images, return_tensors="pt").pixel_values).pooler_output


@pytest.mark.parametrize(("kind", "severity"), [("contrast", 5), ("gaussian_noise", 1)])
def test_images_are_corrupted_before_what_the_checkpoint_does(golden, data, kind, severity):
    chosen = ["taskpool=clip_vit_b32_corrupted", "modelpool=clip_vit_b32_robustness", "model=expert"]
    settings = ["model.name=eurosat", f"+corruption={kind}", f"+severity={severity}"]
    cfg = compose([*chosen, *settings, *paths_of(ROBUSTNESS, data)])
    pool = build(cfg.taskpool)
    assert list(pool.tasks) == list(ROBUSTNESS)
    task = pool.tasks["eurosat"]
    images = [Image.fromarray(image) for image in golden["eurosat/images"].numpy()]
    corrupted = [Corruption(kind, severity)(image) for image in images]
    expected = task.head.load()(encode("first", corrupted))
    model = build(cfg.modelpool).merge(build(cfg.model))
    report = pool.select(["eurosat"]).evaluate(model, Runner(bootstrap=0))
    assert report.results["eurosat"].samples["prediction"].tolist() == expected.argmax(dim=1).tolist()
    clean = golden["eurosat/logits"]
    assert not torch.allclose(expected, clean, atol=0.1)


def test_published_corrupted_images_are_a_split(golden, data, tmp_path):
    """Clean unless asked, then `+corruption=` names the split; the sizes of all splits are known."""
    rows = {}
    for task in ROBUSTNESS:
        clean = datasets.load_from_disk(data[task])
        saved = datasets.DatasetDict({"test": clean, "spatter": clean.select(range(7))})
        saved.save_to_disk(tmp_path / task)
        rows[task] = str(tmp_path / task)
    pool = ["taskpool=clip_vit_b32_robustness", "modelpool=clip_vit_b32_robustness", "model=average"]
    counts = [
        {task: result.count for task, result in evaluate([*pool, *paths_of(ROBUSTNESS, rows), *more]).results.items()}
        for more in ([], ["+corruption=spatter"])
    ]
    assert counts == [dict.fromkeys(ROBUSTNESS, 12), dict.fromkeys(ROBUSTNESS, 7)]


def test_a_split_of_another_size_is_refused(data):
    overrides = [line for line in paths_of(TA8, data) if "expected_size" not in line]
    cfg = compose(
        [
            "taskpool=clip_single_sun397",
            "modelpool=clip_vit_b32_ta8",
            *[line for line in overrides if "tasks.sun397" in line],
        ]
    )
    with pytest.raises(Exception, match=r"19,?850.*12|12.*19,?850"):
        build(cfg.taskpool).tasks["sun397"].data.load()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub in which the checkpoints of clip_vit_b32_ta8 are small ones.

    The base is as old as OpenAI's: a pickled state dict, with the position ids that transformers stored then.
    """
    home = tmp_path_factory.mktemp("home")

    def add(name: str, source: Path) -> Path:
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("0" * 40)
        return Path(shutil.copytree(source, repository / "snapshots" / ("0" * 40)))

    for i, path in enumerate(compose(["modelpool=clip_vit_b32_ta8"]).modelpool.experts.values()):
        add(path, ORACLE / ("first" if i % 2 else "second"))
    base = add("openai/clip-vit-base-patch32", ORACLE / "base")
    weights = load_file(base / "model.safetensors")
    positions = {"text_model": 77, "vision_model": 17}
    old = {f"{tower}.embeddings.position_ids": torch.arange(count)[None] for tower, count in positions.items()}
    torch.save({**old, **weights}, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    return home


def test_ties_on_ta8_from_the_command_line(golden, data, hub, tmp_path):
    """As a user runs it who has the models from the hub: report, references and head store included."""
    cache = {"FUSION_EVAL_CACHE": str(tmp_path / "cache"), "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    chosen = ["model=ties", "taskpool=clip_vit_b32_ta8", "modelpool=clip_vit_b32_ta8", "bootstrap=0"]
    of_data = [line for line in paths_of(TA8, data) if line.startswith("taskpool.")]
    command = [sys.executable, "-m", "fusion_eval", *chosen, *of_data, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        command, env={**os.environ, **cache}, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "run/report.json").read_text())
    assert list(document["report"]) == list(TA8)
    assert document["counts"] == dict.fromkeys(TA8, 12)
    experts = document["references"]["experts"]
    for task in TA8[1::2]:  # whose expert is the one that FusionBench evaluated
        assert experts[task]["accuracy"] == pytest.approx(float(golden[f"{task}/accuracy"]), abs=1e-7)
    assert sorted(file.stem for file in (tmp_path / "run/samples").glob("*.parquet")) == sorted(TA8)
    heads = list((tmp_path / "cache/heads").rglob("*.safetensors"))
    assert len(heads) == len(TA8) - 1  # the digits of svhn and mnist make the same head
