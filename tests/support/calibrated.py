"""Small classifiers, and samples that methods with data may look at."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import MapStyle
from fusion_eval.models import ModelPool
from fusion_eval.tasks import Classification
from fusion_eval.tasks.calibration import Calibration

__all__ = ["CLASSES", "calibration", "network", "random", "weights"]

CLASSES = 5


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, CLASSES))


def calibration(inputs, architecture=network, targets=None):
    """Of tensors by expert; what is evaluated is something else."""
    source = partial(MapStyle, class_names=list("abcde"))
    elsewhere = source([(torch.full((6,), 100.0), 0)])
    task = partial(Classification, metrics={"accuracy": partial(MulticlassAccuracy, average="micro")})
    labels = targets or {name: [0] * len(samples) for name, samples in inputs.items()}
    return Calibration(
        {name: task(elsewhere) for name in inputs},
        ModelPool(architecture, "nowhere.safetensors", {}),
        data={name: source(list(zip(samples, labels[name], strict=True))) for name, samples in inputs.items()},
    )


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(seed, architecture=network):
    return {
        name: random(*tensor.shape, seed=seed) if tensor.is_floating_point() else tensor
        for name, tensor in architecture().state_dict().items()
    }
