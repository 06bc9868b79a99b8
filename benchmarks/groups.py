"""Small models in groups: the merges of a sweep evaluated one by one, stacked, and as the automatic choice has it.

    python benchmarks/groups.py                      # CPU; about two minutes
    python benchmarks/groups.py --device cuda
    python benchmarks/groups.py --models 64 --batch-sizes 128 1024 --json groups.json

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import numpy as np
import torch
from growth import machine
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.engine import Runner, group
from fusion_eval.engine import kind as kind_module
from fusion_eval.engine import runner as runner_module
from fusion_eval.report import Report
from fusion_eval.taskpool import TaskPool
from fusion_eval.tasks import Classification, CrossEntropy
from fusion_eval.zoo import Encoder

CLASSES = 10


class Digits(nn.Sequential):
    """A multilayer perceptron of 27,000 parameters on 64 pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES))


class Embedded(nn.Module):
    """The encoder of the embedded pool with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(Encoder.features, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(images))
        return logits


class Transformer(nn.Module):
    """A vision transformer of transformers: width 32, two layers, 16 patches."""

    def __init__(self) -> None:
        from transformers import ViTConfig, ViTForImageClassification

        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        self.model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images).logits
        return logits


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (Digits, (64,)),
    "embedded encoder": (Embedded, (3, 32, 32)),
    "tiny ViT": (Transformer, (3, 32, 32)),
}


def models(make: Callable[[], nn.Module], count: int, seed: int) -> list[nn.Module]:
    """Models nobody has seen yet: results of others are remembered."""
    torch.manual_seed(seed)
    return [make() for _ in range(count)]


def pool_of(folder: Path, shape: tuple[int, ...], samples: int) -> TaskPool:
    """Two tasks on random arrays."""
    tasks = {}
    for number in range(2):
        random = np.random.default_rng(number)
        path = folder / f"{number}-{samples}-{'x'.join(map(str, shape))}.npz"
        inputs = random.standard_normal((samples, *shape), dtype=np.float32)
        np.savez(path, inputs=inputs, targets=random.integers(0, CLASSES, samples))
        metrics = {"accuracy": partial(MulticlassAccuracy, average="micro"), "loss": CrossEntropy}
        tasks[f"task{number}"] = Classification(Arrays(str(path)), metrics, num_classes=CLASSES)
    return TaskPool(tasks)


def trainer(device: str) -> partial[pl.Trainer]:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return partial(
        pl.Trainer, accelerator="gpu" if device == "cuda" else device, devices=1, **dict.fromkeys(quiet, False)
    )


def timed(
    pool: TaskPool, given: Sequence[nn.Module], runner: Runner, always: bool = False
) -> tuple[float, list[Report]]:
    """Seconds (on one thread of a CPU those of the process), and the reports; `always`: stacked, faster or not."""
    clock = time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter
    usual = group._LAUNCHES, group._FASTER
    if always:
        group._LAUNCHES, group._FASTER = 0.0, float("inf")
    try:
        started = clock()
        reports = pool.evaluate_group(given, runner)
        return clock() - started, reports
    finally:
        group._LAUNCHES, group._FASTER = usual


def difference(ours: Sequence[Report], theirs: Sequence[Report]) -> float:
    """The largest of any metric."""
    return max(
        abs(one[task][metric] - other[task][metric])
        for one, other in zip(ours, theirs, strict=True)
        for task in one
        for metric in one[task]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--models", type=int, default=17, help="how many are evaluated")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--batches", type=int, default=12, help="of each of the two tasks")
    parser.add_argument("--rounds", type=int, default=3, help="the least of so many measurements counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was measured there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table, rows, seed = Table(box=MARKDOWN), [], 0
    for header in ("model", "batch size", "one by one, s", "stacked", "ratio", "auto", "ratio", "difference"):
        table.add_column(header, justify="left" if header == "model" else "right")
    with TemporaryDirectory() as folder:
        for kind, (make, shape) in KINDS.items():
            for size in options.batch_sizes:
                pool = pool_of(Path(folder), shape, size * options.batches)
                seconds: dict[str, float] = {}
                choices = {name: {} for name in ("off", "stacked", "auto")}
                for turn in range(options.rounds + 1):  # the first is not counted: it measures, and warms up
                    seed, reports = seed + 1, {}
                    for name, known in choices.items():
                        kind_module._choices = known
                        runner_module.process_store._results.clear()
                        setting = "off" if name == "off" else "auto"
                        runner = Runner(trainer(options.device), batch_size=size, bootstrap=0, group=setting)
                        given = models(make, options.models, seed)
                        took, reports[name] = timed(pool, given, runner, always=name == "stacked")
                        if turn:
                            seconds[name] = min(took, seconds.get(name, took))
                gap = max(difference(reports[name], reports["off"]) for name in ("stacked", "auto"))
                rows.append({"model": kind, "batch_size": size, **seconds, "difference": gap})
                ratios = [f"{seconds['off'] / seconds[name]:.2f}" for name in ("stacked", "auto")]
                table.add_row(
                    kind,
                    str(size),
                    f"{seconds['off']:.3f}",
                    f"{seconds['stacked']:.3f}",
                    ratios[0],
                    f"{seconds['auto']:.3f}",
                    ratios[1],
                    f"{gap:.0e}",
                )
    name = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    print(f"{name}; {options.models} models, two tasks of {options.batches} batches, {options.threads} thread(s)")
    Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": name, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
