"""Writes nyuv2.npz: what FusionBench's NYUv2 encoders, decoders and metrics make of given weights and scenes.

It has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    /tmp/fb/bin/python tests/oracles/make_nyuv2_oracles.py

Weights and scenes are functions of names and seeds (`filled`, `scenes`), which the tests have too; only what
FusionBench makes of them is stored. Keys are `<network>/names`, `<network>/features` (every 64th channel) and
`<network>/<task>/` map, names, metrics and metric_names.
"""

from __future__ import annotations

import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fusion_bench.metrics.nyuv2 import metric_classes
from fusion_bench.models.nyuv2.aspp import DeepLabHead
from fusion_bench.models.nyuv2.resnet_dilated import resnet_dilated
from torch.nn.functional import interpolate

CHANNELS = {"segmentation": 13, "depth": 1, "normal": 3}


def filled(module):
    for name, tensor in module.state_dict().items():
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("running_var"):
            values = draw.uniform(0.5, 1.5, tensor.shape)
        else:
            values = np.resize(draw.normal(size=4093), tensor.shape) / max(1, np.prod(tensor.shape[1:])) ** 0.5
        tensor.copy_(torch.from_numpy(np.asarray(values)))
    return module.eval()


def scenes(n=3, height=64, width=96):
    draw = np.random.default_rng(7)
    label = draw.integers(-1, 13, (n, height, width))
    depth = draw.uniform(0.5, 9, (n, height, width)) * (draw.random((n, height, width)) < 0.8)
    depth[1] *= draw.random((height, width)) < 0.3  # images count by their valid pixels
    normal = draw.normal(size=(n, height, width, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal *= draw.random((n, height, width, 1)) < 0.7
    image = draw.random((n, height, width, 3)) * 2 - 1
    return {
        key: value.astype(np.float32) for key, value in locals().items() if key in ("image", "label", "depth", "normal")
    }


@torch.no_grad()
def main():
    data = {key: torch.from_numpy(value) for key, value in scenes().items()}
    image = data["image"].permute(0, 3, 1, 2)
    targets = {
        "segmentation": data["label"],
        "depth": data["depth"][:, None],
        "normal": data["normal"].permute(0, 3, 1, 2),
    }
    golden = {"versions": np.array([f"{name} {version(name)}" for name in ("fusion-bench", "torch")])}
    for net, width in (("resnet18", 512), ("resnet50", 2048)):
        encoder = filled(resnet_dilated(net, pretrained=False))
        features = encoder(image)
        golden[f"{net}/names"] = np.array(list(encoder.state_dict()))
        golden[f"{net}/features"] = features[:, ::64].numpy()
        for task, channels in CHANNELS.items():
            decoder = filled(DeepLabHead(width, channels))
            decoded = decoder(features)
            golden[f"{net}/{task}/map"] = decoded.numpy()
            golden[f"{net}/{task}/names"] = np.array(list(decoder.state_dict()))
            metric = metric_classes[task]()
            metric.update(interpolate(decoded, image.shape[-2:], mode="bilinear", align_corners=True), targets[task])
            golden[f"{net}/{task}/metrics"] = np.array([float(value) for value in metric.compute()])
            golden[f"{net}/{task}/metric_names"] = np.array(metric.metric_names)
    np.savez_compressed(Path(__file__).with_name("nyuv2.npz"), **golden)


if __name__ == "__main__":
    main()
