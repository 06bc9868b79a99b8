"""Train the embedded base and experts again: `python -m fusion_eval.zoo.train`. The protocol is in the README beside this file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.data.embedded import Embedded
from fusion_eval.data.source import TensorSamples
from fusion_eval.zoo.encoder import Encoder

__all__ = ["TASKS", "Phase", "Protocol", "accuracy", "fine_tune", "main", "warm_up"]

TASKS = ("optdigits", "mnist", "scripts", "textures")


@dataclass(frozen=True)
class Phase:
    """AdamW with a learning rate that falls to zero as a cosine.

    Args:
        steps: Batches.
        lr: First learning rate of the encoder.
        head_lr: First learning rate of the heads.
        weight_decay: Decoupled weight decay of both.
    """

    steps: int
    lr: float
    head_lr: float
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the trained weights.

    Args:
        seed: Of the initial weights, the batches and the shifts.
        warm_up: Base and all heads together, each batch holding as many samples of every task.
        fine_tune: One expert and its head, from the base and the warmed-up head.
        batch_size: Samples in a batch.
        warm_up_share: One training sample in this many is kept for the warm-up, and used for nothing else.
        shift: Images are moved by up to this many pixels each way, the border repeated.
    """

    seed: int = 0
    warm_up: Phase = Phase(steps=300, lr=2e-3, head_lr=2e-3)
    fine_tune: Phase = Phase(steps=300, lr=5e-4, head_lr=5e-4)
    batch_size: int = 64
    warm_up_share: int = 4
    shift: int = 2


def warm_up(protocol: Protocol) -> tuple[Encoder, dict[str, nn.Linear]]:
    """Train the base and a first head a task on the mixture of the samples kept for that."""
    torch.manual_seed(protocol.seed)
    encoder = Encoder()
    samples = {task: _training_samples(task, protocol)[0] for task in TASKS}
    heads = {task: nn.Linear(encoder.features, len(samples[task].class_names or ())) for task in TASKS}
    share = replace(protocol, batch_size=protocol.batch_size // len(TASKS))
    batches = zip(*(_batches(samples[task], share, share.warm_up.steps) for task in TASKS), strict=True)
    step = _optimizer_step(encoder, heads.values(), protocol.warm_up)
    for mixture in track(batches, "base", protocol.warm_up.steps, transient=True):
        features = encoder(torch.cat([inputs for inputs, _ in mixture])).split([len(targets) for _, targets in mixture])
        step(
            sum(
                functional.cross_entropy(heads[task](part), targets)
                for task, part, (_, targets) in zip(TASKS, features, mixture, strict=True)
            )
        )
    return encoder, heads
