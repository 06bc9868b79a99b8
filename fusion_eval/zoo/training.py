"""How the embedded base and experts are trained: a plain PyTorch loop, seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_eval.data.embedded import Embedded
from fusion_eval.zoo.encoder import Encoder

__all__ = ["TASKS", "Phase", "Protocol", "fine_tune", "warm_up"]

TASKS = ("optdigits", "mnist", "scripts", "textures")

Batch = tuple[Tensor, Tensor]
Tick = Callable[[], object]


@dataclass(frozen=True)
class Phase:
    """AdamW (arXiv 1711.05101) with learning rates that fall to zero as half a cosine.

    Args:
        steps: Batches.
        batch_size: Samples in a batch.
        lr: First learning rate of the encoder.
        head_lr: First learning rate of the heads.
        weight_decay: Decoupled weight decay of both.
    """

    steps: int
    batch_size: int
    lr: float
    head_lr: float
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Protocol:
    """All that decides the trained weights, but for the number of threads (which changes the order of float sums).

    Args:
        seed: Of the initial weights, the order of the samples and their shifts.
        warm_up: The base with a first head a task; each batch holds as many samples of every task.
        fine_tune: One expert with its head, from the base and the first head.
        warm_up_every: One training sample in this many is for the warm-up, the others for fine-tuning.
        shift: Every batch is moved by up to this many pixels each way, its border repeated.
    """

    seed: int = 0
    warm_up: Phase = Phase(steps=500, batch_size=64, lr=1e-3, head_lr=1e-3)
    fine_tune: Phase = Phase(steps=1500, batch_size=32, lr=6e-4, head_lr=6e-4)
    warm_up_every: int = 40
    shift: int = 2


def warm_up(protocol: Protocol, tick: Tick) -> tuple[Encoder, dict[str, nn.Linear]]:
    """Train the base and the first heads on a small mixture of the tasks.

    Args:
        protocol: The hyper-parameters.
        tick: Called after every step.

    Returns:
        The base, and task name to its first head.
    """
    torch.manual_seed(protocol.seed)
    phase = protocol.warm_up
    # A quarter faster on a CPU; the stub of `to` does not know the argument.
    encoder: Encoder = Encoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads, streams = {}, []
    for task in TASKS:
        samples = Embedded(task, "train").load()
        kept = torch.arange(len(samples)) % protocol.warm_up_every == 0
        heads[task] = nn.Linear(encoder.features, len(samples.class_names or ()))
        streams.append(
            _batches(samples.inputs[kept], samples.targets[kept], phase.batch_size // len(TASKS), phase.steps, protocol)
        )
    step = _optimiser(phase, encoder, heads.values())
    for mixture in zip(*streams, strict=True):
        features = encoder(torch.cat([inputs for inputs, _ in mixture])).chunk(len(TASKS))
        losses = [
            functional.cross_entropy(heads[task](part), targets)
            for task, part, (_, targets) in zip(TASKS, features, mixture, strict=True)
        ]
        step(torch.stack(losses).sum())
        tick()
    return encoder, heads


def fine_tune(
    task: str, base: Encoder, first_head: nn.Linear, protocol: Protocol, tick: Tick
) -> tuple[Encoder, nn.Linear]:
    """Train the expert of a task with its head, on the training samples that the warm-up did not see.

    Args:
        task: Name of the task.
        base: Where the expert starts; left as it is.
        first_head: Where its head starts; left as it is.
        protocol: The hyper-parameters.
        tick: Called after every step.

    Returns:
        The expert and its head.
    """
    torch.manual_seed(protocol.seed)
    phase = protocol.fine_tune
    encoder, head = deepcopy(base), deepcopy(first_head)
    samples = Embedded(task, "train").load()
    kept = torch.arange(len(samples)) % protocol.warm_up_every != 0
    step = _optimiser(phase, encoder, [head])
    for inputs, targets in _batches(
        samples.inputs[kept], samples.targets[kept], phase.batch_size, phase.steps, protocol
    ):
        step(functional.cross_entropy(head(encoder(inputs)), targets))
        tick()
    return encoder, head


def _batches(inputs: Tensor, targets: Tensor, size: int, steps: int, protocol: Protocol) -> Iterator[Batch]:
    """Pass after pass over the samples, each in a new order, every batch full and shifted as a whole."""
    random = torch.Generator().manual_seed(protocol.seed)
    queue = torch.empty(0, dtype=torch.int64)
    margin = protocol.shift
    for _ in range(steps):
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(len(targets), generator=random)])
        batch, queue = queue[:size], queue[size:]
        down, right = torch.randint(2 * margin + 1, (2,), generator=random).tolist()
        padded = functional.pad(inputs[batch], (margin,) * 4, mode="replicate")
        height, width = inputs.shape[-2:]
        yield padded[..., down : down + height, right : right + width], targets[batch]


def _optimiser(phase: Phase, encoder: nn.Module, heads: Iterable[nn.Module]) -> Callable[[Tensor], None]:
    """A function that takes the loss of a batch and makes one step."""
    optimiser = torch.optim.AdamW(
        [
            {"params": list(encoder.parameters()), "lr": phase.lr},
            {"params": [parameter for head in heads for parameter in head.parameters()], "lr": phase.head_lr},
        ],
        weight_decay=phase.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, phase.steps)

    def step(loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()

    return step
