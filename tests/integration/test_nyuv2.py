"""The NYUv2 pool on small scenes and networks on disk, through its configs and through FusionBench's YAML."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from fusion_eval import TaskPool, build, compose
from fusion_eval.models import MergedModel
from fusion_eval.models.nyuv2 import ASPPDecoder, DilatedResNet

CHANNELS = {"segmentation": 13, "depth": 1, "normal": 3}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Five scenes in the format of MTAN."""
    root, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    for split in ("train", "val"):
        for folder in ("image", "label", "depth", "normal"):
            (root / "nyuv2" / split / folder).mkdir(parents=True)
        for number in range(5):
            normal = draw.normal(size=(32, 48, 3))
            normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True) * (draw.random((32, 48, 1)) < 0.9)
            arrays = {
                "image": draw.random((32, 48, 3)),
                "label": draw.integers(-1, 13, (32, 48)).astype(float),
                "depth": draw.uniform(1, 9, (32, 48, 1)) * (draw.random((32, 48, 1)) < 0.8),
                "normal": normal,
            }
            for folder, array in arrays.items():
                np.save(root / "nyuv2" / split / folder / f"{number}.npy", array.astype(np.float32))
    return root


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A base with a classifier in torchvision's names, and one Lightning checkpoint a task."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    encoder = DilatedResNet(layers=18, width=4)
    torch.save(
        {**encoder.state_dict(), "fc.weight": torch.zeros(9, 32), "fc.bias": torch.zeros(9)}, folder / "base.pth"
    )
    for task, channels in CHANNELS.items():
        encoder, decoder = DilatedResNet(layers=18, width=4), ASPPDecoder(32, channels, width=8)
        weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        weights |= {f"decoders.{task}.{name}": tensor for name, tensor in decoder.state_dict().items()}
        torch.save({"state_dict": weights, "epoch": 3}, folder / f"{task}.ckpt")
    return folder


@pytest.fixture(scope="module")
def settings(scenes, networks):
    return [
        "taskpool=nyuv2",
        "modelpool=nyuv2",
        "modelpool.architecture.layers=18",
        "modelpool.architecture.width=4",
        f"modelpool.base={networks / 'base.pth'}",
        *(f"modelpool.experts.{task}={networks / task}.ckpt" for task in CHANNELS),
        *(f"taskpool.tasks.{task}.data.root={scenes / 'nyuv2'}" for task in CHANNELS),
        *(f"taskpool.tasks.{task}.data.expected_size=null" for task in CHANNELS),
        "progress=false",
        "bootstrap=3",
        "store=off",
    ]


def by_hand(scenes, networks):
    """Every metric of the average of the three encoders, from the files and the definitions."""
    stored = {task: torch.load(networks / f"{task}.ckpt")["state_dict"] for task in CHANNELS}
    encoder = DilatedResNet(layers=18, width=4).eval()
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([weights[f"encoder.{name}"] for weights in stored.values()]).mean(dim=0))
    read = {
        folder: torch.stack([torch.from_numpy(np.load(scenes / f"nyuv2/val/{folder}/{i}.npy")) for i in range(5)])
        for folder in ("image", "label", "depth", "normal")
    }
    maps = {}
    with torch.no_grad():
        for task, channels in CHANNELS.items():
            decoder = ASPPDecoder(32, channels, width=8).eval()
            prefix = f"decoders.{task}."
            decoder.load_state_dict(
                {k.removeprefix(prefix): v for k, v in stored[task].items() if k.startswith(prefix)}
            )
            small = decoder(encoder(read["image"].movedim(-1, 1)))
            maps[task] = (
                interpolate(small, (32, 48), mode="bilinear", align_corners=True).movedim(1, -1).double().numpy()
            )
    label, depth = read["label"].numpy(), read["depth"].double().numpy()[..., 0]
    predicted, normal = maps["segmentation"].argmax(axis=-1), read["normal"].double().numpy()
    counted = label >= 0
    ious = [
        ((predicted == c) & (label == c)).sum() / (((predicted == c) | (label == c)) & counted).sum() for c in range(13)
    ]
    error = np.abs(maps["depth"][..., 0] - depth)[depth > 0]
    cosine = (maps["normal"] * normal).sum(axis=-1) / np.linalg.norm(maps["normal"], axis=-1)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))[np.linalg.norm(normal, axis=-1) > 0]
    return {
        "segmentation": {"mean_iou": np.mean(ious), "pixel_accuracy": (predicted == label)[counted].mean()},
        "depth": {"abs_err": error.mean(), "rel_err": (error / depth[depth > 0]).mean()},
        "normal": {
            "mean_angle": angles.mean(),
            "median_angle": np.median(angles),
            "within_11_25": (angles < 11.25).mean(),
            "within_22_5": (angles < 22.5).mean(),
            "within_30": (angles < 30).mean(),
        },
    }


def test_the_report_is_what_the_definitions_say(settings, scenes, networks):
    cfg = compose([*settings, "model=average", "batch_size=2"])
    model = build(cfg.modelpool).merge(build(cfg.model))
    report = build(cfg.taskpool).evaluate(model, build(cfg.runner))
    expected = by_hand(scenes, networks)
    assert list(report) == list(expected)
    for task, metrics in expected.items():
        assert report[task] == pytest.approx(metrics, rel=1e-5, abs=0.03 if task == "normal" else 0)
        assert report.results[task].standard_errors.keys() == metrics.keys()


def test_the_yaml_of_fusion_bench_gives_the_same_report(settings, scenes, tmp_path):
    (tmp_path / "pool.yaml").write_text(
        f"type: NYUv2TaskPool\ndata_dir: {scenes}\ntasks: [segmentation, depth, normal]\nbatch_size: 16\n"
    )
    cfg = compose([*settings, "model=expert", "model.name=depth"])
    model = build(cfg.modelpool).merge(build(cfg.model))
    assert isinstance(model, MergedModel)
    pools = TaskPool.from_yaml(tmp_path / "pool.yaml"), build(cfg.taskpool)
    reports = [dict(pool.evaluate(model, build(cfg.runner))) for pool in pools]
    assert reports[0] == reports[1]


def test_batch_norm_is_recalibrated_on_the_training_split(settings):
    cfg = compose([*settings, "model=recalibrated", "calibration.samples=4", "calibration.batch_size=2"])
    plain, anew = (build(cfg.modelpool).merge(build(node)).backbone for node in (cfg.model.method, cfg.model))
    assert torch.equal(plain.layer4[1].conv2.weight, anew.layer4[1].conv2.weight)
    assert not torch.allclose(plain.layer4[1].bn2.running_mean, anew.layer4[1].bn2.running_mean)
