"""How the cost of an evaluation grows: ours and a bare loop while one quantity grows and all else stays.

    python benchmarks/growth.py                                   # about three minutes; writes growth.svg beside it
    python benchmarks/growth.py --rounds 1 --json growth.json --plot /tmp/growth.svg

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.engine import Runner
from fusion_eval.merging import TaskArithmetic
from fusion_eval.models import LinearHead, ModelPool
from fusion_eval.taskpool import TaskPool
from fusion_eval.tasks import Classification

PATCHES, PIXELS, CLASSES, LAYERS, BATCH = 16, 48, 10, 4, 64

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Curve:
    """What was measured while one quantity grew.

    Attributes:
        quantity: Which, with its unit.
        values: Shape `(k,)`: its values.
        ours: Shape `(k,)`: seconds of ours, least of the rounds.
        bare: Shape `(k,)`: seconds of the bare loop.
        held: What stayed, in words.
    """

    quantity: str
    values: list[float]
    ours: list[float]
    bare: list[float]
    held: str

    def line(self, tool: str) -> tuple[float, float]:
        """Slope, seconds per unit, and constant, seconds, of the least-squares line."""
        slope, constant = np.polyfit(self.values, getattr(self, tool), 1)
        return float(slope), float(constant)


class Encoder(nn.Module):
    """A vision transformer in small: patches in, the mean of their features out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(PIXELS, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embed(inputs)).mean(dim=1)


class Setting:
    """A pool of tasks and a pool of models on disk, and the same as tensors for the bare loop."""

    def __init__(self, folder: Path, samples: int = 512, tasks: int = 1, width: int = 64) -> None:
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone = Encoder(width).eval()
        for name in ("base", "one", "two"):
            path = folder / f"{name}.pt"
            torch.save({key: value + 1e-3 * torch.randn_like(value) for key, value in self._weights().items()}, path)
        self.inputs, heads = {}, {}
        described: dict[str, Classification] = {}
        for number in range(tasks):
            name = f"task{number}"
            self.inputs[name] = torch.randn(samples, PATCHES, PIXELS)
            targets = np.random.default_rng(number).integers(0, CLASSES, samples)
            np.savez(folder / f"{name}.npz", inputs=self.inputs[name].numpy(), targets=targets)
            torch.save(nn.Linear(width, CLASSES).state_dict(), folder / f"{name}.pt")
            heads[name] = LinearHead(str(folder / f"{name}.pt"))
            metrics = {"accuracy": partial(MulticlassAccuracy, average="micro")}
            described[name] = Classification(Arrays(str(folder / f"{name}.npz")), metrics, num_classes=CLASSES)
        self.heads = {name: head.load() for name, head in heads.items()}
        self.pool = TaskPool(described)
        experts = {name: str(folder / f"{name}.pt") for name in ("one", "two")}
        self.models = ModelPool(partial(Encoder, width), str(folder / "base.pt"), experts, heads)
        self.runner = Runner(batch_size=BATCH, bootstrap=0)

    @property
    def parameters(self) -> int:
        return sum(value.numel() for value in self._weights().values())

    def ours(self, merges: int = 1) -> None:
        """Merge and evaluate: no merge is like one before, whose results are remembered."""
        for _ in range(merges):
            self.pool.evaluate(self.models.merge(TaskArithmetic(1e-3 * next(_numbers))), self.runner)

    @torch.inference_mode()
    def bare(self, merges: int = 1) -> None:
        """Forwards over tensors in memory, with no merge and no metric."""
        for _ in range(merges):
            for name, inputs in self.inputs.items():
                for batch in inputs.split(BATCH):
                    self.heads[name](self.backbone(batch)).argmax(dim=-1)

    def _weights(self) -> dict[str, torch.Tensor]:
        return self.backbone.state_dict()


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def both(setting: Setting, rounds: int, merges: int = 1) -> tuple[float, float]:
    """Seconds of ours and of the bare loop: they take turns, and the least of the rounds counts."""
    setting.ours(), setting.bare()
    pairs = [(timed(lambda: setting.ours(merges)), timed(lambda: setting.bare(merges))) for _ in range(rounds)]
    ours, bare = map(min, zip(*pairs, strict=True))
    return ours, bare


def in_processes(folder: Path, processes: int, rounds: int, merges: int) -> tuple[float, float]:
    """The merges of a sweep, shared by processes that are started and warm."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (folder, processes)) as executor:

        def share(kind: str) -> None:
            list(executor.map(_job, [kind] * merges))

        share("ours"), share("bare")
        pairs = [(timed(partial(share, "ours")), timed(partial(share, "bare"))) for _ in range(rounds)]
    ours, bare = map(min, zip(*pairs, strict=True))
    return ours, bare


_setting: list[Setting] = []


def _start(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    _setting.append(Setting(folder / f"processes{processes}" / str(os.getpid())))


def _job(kind: str) -> None:
    getattr(_setting[0], kind)()


def measure(folder: Path, rounds: int, processes: int) -> list[Curve]:
    """All curves, in the order of the table."""

    def curve(quantity: str, held: str, values: list[int], one: Callable[[int], tuple[float, float]]) -> Curve:
        found = [one(value) for value in values]
        return Curve(quantity, list(values), [ours for ours, _ in found], [bare for _, bare in found], held)

    sweep, widths = Setting(folder / "merges", samples=256), [32, 64, 128, 192, 256]
    sizes = {Setting(folder / f"width{width}", 1, width=width).parameters / 1e6: width for width in widths}
    return [
        curve(
            "samples",
            "one task, one merge, width 64",
            [64, 128, 256, 512, 1024, 2048],
            lambda samples: both(Setting(folder / f"samples{samples}", samples), rounds),
        ),
        curve(
            "tasks",
            "256 samples each, one merge, width 64",
            [1, 2, 4, 6, 8],
            lambda tasks: both(Setting(folder / f"tasks{tasks}", 256, tasks), rounds),
        ),
        curve(
            "merges",
            "256 samples, one task, width 64",
            [1, 2, 4, 8, 16],
            lambda merges: both(sweep, rounds, merges),
        ),
        curve(
            "million parameters",
            "256 samples, one task, one merge, widths 32 to 256",
            list(sizes),
            lambda size: both(Setting(folder / f"size{sizes[size]}", 256, width=sizes[size]), rounds),
        ),
        curve(
            "processes",
            "16 merges in all, 512 samples, one task, width 64",
            list(range(1, processes + 1)),
            lambda number: in_processes(folder, number, rounds, merges=16),
        ),
    ]


def print_table(curves: list[Curve]) -> None:
    """In Markdown, for README.md."""
    table = Table(box=MARKDOWN)
    for header in ("quantity", "from, to", "ours, s", "bare, s", "ratio at the end", "ours", "bare", "held"):
        table.add_column(header, justify="left" if header in ("quantity", "held") else "right")
    for curve in curves:
        lines = [
            "" if curve.quantity == "processes" else f"{1e3 * constant:.1f} + {1e3 * slope:.3g} ms"
            for slope, constant in (curve.line("ours"), curve.line("bare"))
        ]
        table.add_row(
            curve.quantity,
            f"{curve.values[0]:.3g}, {curve.values[-1]:.3g}",
            f"{curve.ours[0]:.3f}, {curve.ours[-1]:.3f}",
            f"{curve.bare[0]:.3f}, {curve.bare[-1]:.3f}",
            f"{curve.ours[-1] / curve.bare[-1]:.2f}",
            *lines,
            curve.held,
        )
    print(f"{machine()}; one thread; seconds = constant + slope x quantity")
    Console(width=200).print(table)


def plot(curves: list[Curve], path: Path) -> None:
    """A panel for each curve: points as measured; lines, where cost is to grow in proportion, of least squares."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(3 * len(curves), 2.8), layout="constrained")
    for curve, panel in zip(curves, panels, strict=True):
        for tool, colour in (("ours", "C0"), ("bare", "C1")):
            seconds = getattr(curve, tool)
            panel.plot(curve.values, seconds, "o", color=colour, label="bare loop" if tool == "bare" else tool)
            if curve.quantity != "processes":
                slope, constant = curve.line(tool)
                panel.plot(curve.values, [constant + slope * value for value in curve.values], color=colour)
        panel.set(xlabel=curve.quantity, xlim=(0, None), ylim=(0, None))
    panels[0].set_ylabel("seconds")
    panels[0].legend(frameon=False)
    figure.suptitle(machine(), fontsize="small")
    figure.savefig(path)


def machine() -> str:
    """The machine, in words."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = next(iter(named), model)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="the least of so many measurements counts")
    parser.add_argument("--processes", type=int, default=2, help="at most so many")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_name("growth.svg"))
    parser.add_argument("--json", type=Path, help="write what was measured there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        curves = measure(Path(folder), options.rounds, options.processes)
    print_table(curves)
    plot(curves, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "curves": list(map(asdict, curves))}, indent=1))
    print(f"{options.plot}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
