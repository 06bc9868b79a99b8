"""Evaluate the same CLIP on the same images with fusion_eval, fusion-bench and a bare loop: seconds, memory, ratios.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 512 --rounds 3 --json times.json
    python benchmarks/evaluation.py --device cpu --model tiny --images 16 --merges 2 --pool 40 --gpu-rows  # a trial

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import start_up
import torch
from clip_and_images import ARCHITECTURES, make_clip, make_images
from evaluate_once import COUNTS, TA8
from peers import TASK_POOL, install_peers
from process import run_measured
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PEERS = {"fusion_bench", "fusion_bench_pipeline", "fusion_bench_heads"}
_TIMES = ("first evaluation", "evaluation", "MB")
"""What `ours` measures beside metrics."""


@dataclass
class Bench:
    """Where everything is, and what was measured.

    Attributes:
        job: What all jobs share.
        folder: Scratch.
        peer: Python that has fusion-bench; None leaves it out.
        environment: Of every process measured.
        rounds: How often each is measured.
        found: (tool, precision) to name to the median of what was measured, with "MB" of peak memory allocated.
    """

    job: Mapping[str, object]
    folder: Path
    peer: Path | None
    environment: Mapping[str, str]
    rounds: int
    found: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def measure(
        self, tools: Sequence[str], precision: str = "32-true", rounds: int | None = None, **job: object
    ) -> None:
        """Run the tools in turn, each in fresh processes with empty caches.

        Args:
            tools: Which.
            precision: Of the weights.
            rounds: How often; None: as often as all are.
            job: What is other than in the job that all share.
        """
        runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools if self.peer or tool not in PEERS}
        for _ in range(rounds or self.rounds):
            for tool, of_tool in runs.items():
                of_tool.append(self._run(tool, dict(self.job) | {"precision": precision} | job))
        for tool, of_tool in runs.items():
            self.found[tool, precision] = {key: median(run[key] for run in of_tool) for key in of_tool[0]}

    def seconds(self, tool: str, what: str = "evaluation", precision: str = "32-true") -> float | None:
        """The median of what was measured, None if the tool was left out."""
        return self.found.get((tool, precision), {}).get(what)

    def _run(self, tool: str, job: Mapping[str, object]) -> dict[str, float]:
        out, cache = self.folder / "out", self.folder / "cache"
        for directory in (out, cache):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        description = self.folder / "job.json"
        description.write_text(json.dumps(dict(job) | {"tool": tool, "cache": str(cache), "out": str(out)}))
        python = str(self.peer) if tool in PEERS else sys.executable
        environment = dict(self.environment) | {"FUSION_EVAL_CACHE": str(cache)}
        usage = run_measured(
            [python, str(HERE / "evaluate_once.py"), str(description)], environment, self.folder / "log.txt"
        )
        return json.loads((out / "measured.json").read_text()) | {"MB": usage.peak.anonymous / 1e6}


Line = tuple[str, float | None, float | None, str, str]
"""What is measured, seconds, the seconds they are compared with, the unit of the ratio, and the aim."""


def rows(bench: Bench, merges: int) -> list[tuple[str, str, str, str]]:
    """What is measured, the figure, what it is compared with, and the aim."""
    s, bf16 = bench.seconds, "bf16-true"
    forward, preparation, ours, heads = s("bare"), s("our_preparation"), s("ours"), s("our_heads", "first evaluation")
    assert forward is not None
    assert preparation is not None
    turns = {precision: partial(s, "ours_by_turns", precision=precision) for precision in ("32-true", bf16)}
    lines: list[Line] = [
        ("(a) first evaluation", s("ours", "first evaluation"), forward + preparation, "x bare + preparation", "1.03"),
        ("    preparation", preparation, forward, "x bare", ""),
        ("    fusion-bench's second model over ours", s("fusion_bench"), ours, "x", ">= 1.2"),
        ("    over ours in bf16", s("fusion_bench"), s("ours", precision=bf16), "x", ">= 2.5"),
        ("(d) fusion-bench's loader over ours", s("fusion_bench_pipeline"), s("our_pipeline"), "x", ">= 30"),
        ("    over our runner, which normalises", s("fusion_bench_pipeline"), s("our_pipeline", "runner"), "x", ""),
        ("(e) fusion-bench's text heads over ours", s("fusion_bench_heads"), heads, "x", ">= 2"),
        ("(e) our text heads again", s("our_heads"), heads, "x first time", "free"),
    ]
    table = [_row(*line) for line in lines if line[1] is not None and line[2] is not None]
    for precision, of in turns.items():
        evaluation, ratio = of("evaluation"), f"{of('ratio'):.3f} x bare, by turns"
        table.append((f"(b) further model, {precision}", f"{evaluation:.2f} s", ratio, "1.02"))
    sweep, bares = turns["32-true"]("merges and evaluations"), turns["32-true"]("bares")
    table.append((f"(c) {merges} merges", f"{sweep:.2f} s", f"{sweep / bares:.3f} x bare, by turns", "1.02"))
    share, finished = s("our_racing", "share"), s("our_racing", "finished")
    table.append(("(c) racing, 20 merges of the embedded pool", "", f"{share:.2f} of the forwards", "0.33"))
    table.append(("    of them evaluated to the end", "", f"{finished:.0f}", ""))
    for what, aim in (("ms a batch", "1"), ("ms a task", "10")):
        table.append(("(f) over the bare loop, embedded pool", "", f"{s('our_overhead', what):.2f} {what}", aim))
    for key, what, aim in (
        ("first forward", "(g) fusion-eval, to the first forward", "5"),
        ("import torch", "    import torch alone", ""),
        ("whole", "(g) fusion-eval, one sample a task, whole process", ""),
    ):
        table.append((what, f"{s('start-up', key):.2f} s", "", aim))
    for tool in ("ours", "fusion_bench", "bare"):
        for precision in ("32-true", bf16):
            if (megabytes := s(tool, "MB", precision)) is not None:
                table.append((f"(h) peak memory, {tool}, {precision}", "", f"{megabytes:.0f} MB", ""))
    return table


def gpu_rows(bench: Bench, architecture: str, images: int) -> list[tuple[str, str, str, str]]:
    """Images a second in bf16 against the bare loop, and a pool of TA8's sizes."""
    bare, ours = bench.seconds("bare", precision="bf16-true"), bench.seconds("ours", precision="bf16-true")
    assert bare is not None
    assert ours is not None
    table = [
        (f"bare loop, {architecture}, bf16", f"{bare:.2f} s", f"{images / bare:.0f} images/s", ""),
        (f"ours, {architecture}, bf16", f"{ours:.2f} s", f"{images / ours:.0f} images/s, {bare / ours:.2f} x bare", ""),
    ]
    if (pool := bench.seconds("our_pool", precision="bf16-true")) is not None:
        of_pool = bench.found["our_pool", "bf16-true"]["images"]
        rate = of_pool / pool
        figure = f"{rate:.0f} images/s, {rate * bare / images:.2f} x bare"
        table.append(
            (f"(a') pool like TA8, {of_pool:.0f} images, {architecture}", f"{pool:.2f} s", figure, "15 s, 0.85")
        )
    return table


def _row(what: str, one: float, other: float, unit: str, aim: str) -> tuple[str, str, str, str]:
    return what, f"{one:.2f} s", f"{one / other:.2f} {unit}", aim


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, make the models and images, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="how many (128; 8192 for a GPU)")
    parser.add_argument("--loaded", type=int, default=2000, help="how many the pipelines load, (d) (2000)")
    parser.add_argument("--turned", type=int, help="images of (b) and (c), twice as many in bf16 (as --images)")
    parser.add_argument("--merges", type=int, default=20, help="of the sweep (20)")
    parser.add_argument("--pool", type=int, default=sum(COUNTS), help=f"images of a pool like TA8 ({sum(COUNTS)})")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each; medians are printed (1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of OpenMP (all cores)")
    parser.add_argument("--model", choices=ARCHITECTURES, default="ViT-B/32", help="(ViT-B/32)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(cuda if there is one)")
    parser.add_argument("--gpu-rows", action="store_true", help="the rows of a GPU on whatever device, for a trial")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only: installs nothing")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench", help="where the peer lives (.bench)")
    parser.add_argument("--scratch", type=Path, help="where models and images go for the time being (the system's)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    chosen = parser.parse_args(arguments)
    started = time.perf_counter()

    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device == "cuda" or chosen.gpu_rows
    images = chosen.images or (8192 if device == "cuda" else 128)
    peer = None if chosen.no_peers or on_gpu else install_peers(chosen.cache, TASK_POOL, "task_pool")
    environment = {
        "OMP_NUM_THREADS": str(chosen.threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:

        def bench_of(architecture: str) -> Bench:
            folder = Path(scratch, architecture.replace("/", "-"))
            folder.mkdir()
            clip, experts = make_clip(folder, _texts(), architecture)
            distinct = min(images, 128)
            job = {
                "clip": str(clip),
                "experts": [str(path) for path in experts],
                "data": str(make_images(folder, images, distinct)),
                "distinct": distinct,
                "jpeg": str(folder / "jpeg"),
                "merges": chosen.merges,
                "pool": chosen.pool,
                "device": device,
            }
            return Bench(job, folder, peer, environment, chosen.rounds)

        bench = bench_of(chosen.model)
        if on_gpu:
            bench.measure(["bare", "ours", "our_pool"], "bf16-true")
            table = gpu_rows(bench, chosen.model, images)
            if chosen.model == "ViT-B/32":
                large = bench_of("ViT-L/14")
                large.measure(["bare", "ours"], "bf16-true")
                table += gpu_rows(large, "ViT-L/14", images)
        else:
            bench.measure(["bare", "our_preparation", "ours", "fusion_bench"])
            bench.measure(["bare", "ours"], "bf16-true", rounds=1)
            for precision, times in (("32-true", 1), ("bf16-true", 2)):  # which may be four times as fast
                turned = make_images(bench.folder, times * (chosen.turned or images), distinct=min(images, 128))
                bench.measure(["ours_by_turns"], precision, rounds=1, data=str(turned))
            loaded = str(make_images(bench.folder, chosen.loaded, distinct=min(chosen.loaded, 128)))
            bench.measure(["our_pipeline", "fusion_bench_pipeline"], data=loaded)
            bench.measure(["our_heads", "fusion_bench_heads", "our_racing"], rounds=1)
            bench.measure(["our_overhead"])
            seconds = {what: wall for what, (wall, _) in start_up.measure(bench.folder, environment, rounds=3).items()}
            bench.found["start-up", "32-true"] = seconds
            table = rows(bench, chosen.merges)

    title = f"CLIP {chosen.model}, {images} images, {device}, {chosen.threads} threads, medians of {chosen.rounds}"
    printed = Table(title=title, box=MARKDOWN)
    for heading in ("what", "seconds", "ratio", "aim"):
        printed.add_column(heading, justify="left" if heading == "what" else "right")
    for row in table:
        printed.add_row(*row)
    Console(width=130).print(printed)
    if not on_gpu:
        one, other = (bench.found["ours", precision] for precision in ("32-true", "bf16-true"))
        metrics = [name for name in one if name in other and name not in _TIMES]
        print("bf16 changes " + ", ".join(f"{name} {other[name] - one[name]:+.4f}" for name in metrics))
    print(f"{time.perf_counter() - started:.0f} s in all")
    if chosen.json:
        found = {f"{tool} {precision}": figures for (tool, precision), figures in bench.found.items()}
        chosen.json.write_text(json.dumps(found, indent=2))


def _texts() -> list[str]:
    from fusion_eval.models import CLIPTextTower, ZeroShotHead

    return [text for task in TA8 for text in ZeroShotHead(CLIPTextTower("none"), task).prompts().texts]


if __name__ == "__main__":
    main()
