"""Evaluate the same CLIP on the same images with fusion_eval, fusion-bench and a bare loop: seconds, memory, ratios.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 512 --merges 20 --json times.json

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from clip_and_images import make_clip, make_images
from evaluate_once import TA8
from peers import TASK_POOL, install_peers
from process import run_measured
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PEERS = {"fusion_bench", "fusion_bench_pipeline", "fusion_bench_heads"}


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

    def measure(self, tools: Sequence[str], precision: str = "32-true") -> None:
        """Run the tools in turn, each in fresh processes with empty caches."""
        runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools if self.peer or tool not in PEERS}
        for _ in range(self.rounds):
            for tool, of_tool in runs.items():
                of_tool.append(self._run(tool, precision))
        for tool, of_tool in runs.items():
            self.found[tool, precision] = {key: median(run[key] for run in of_tool) for key in of_tool[0]}

    def seconds(self, tool: str, what: str = "evaluation", precision: str = "32-true") -> float | None:
        """The median of what was measured, None if the tool was left out."""
        return self.found.get((tool, precision), {}).get(what)

    def _run(self, tool: str, precision: str) -> dict[str, float]:
        out, cache = self.folder / "out", self.folder / "cache"
        for directory in (out, cache):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        description = self.folder / "job.json"
        extra = {"tool": tool, "precision": precision, "cache": str(cache), "out": str(out)}
        description.write_text(json.dumps(dict(self.job) | extra))
        python = str(self.peer) if tool in PEERS else sys.executable
        environment = dict(self.environment) | {"FUSION_EVAL_CACHE": str(cache)}
        usage = run_measured(
            [python, str(HERE / "evaluate_once.py"), str(description)], environment, self.folder / "log.txt"
        )
        return json.loads((out / "measured.json").read_text()) | {"MB": usage.peak.anonymous / 1e6}


def rows(bench: Bench, images: int, merges: int) -> list[tuple[str, str, str, str]]:
    """What is measured, the figure, what it is compared with, and the aim."""
    s = bench.seconds
    forward, forward_bf16 = s("bare"), s("bare", precision="bf16-true")
    lines: list[tuple[str, float | None, float | None, str, str]] = [
        ("(a) first evaluation", s("ours", "first evaluation"), forward, "x bare forwards", ""),
        ("(b) second model", s("ours"), forward, "x bare forwards", "<= 1.02"),
        ("(b) second model, bf16", s("ours", precision="bf16-true"), forward_bf16, "x bare forwards", "<= 1.02"),
        ("    fusion-bench over ours", s("fusion_bench"), s("ours"), "x", ">= 1.2"),
        ("    fusion-bench over ours in bf16", s("fusion_bench"), s("ours", precision="bf16-true"), "x", ">= 2.5"),
        (f"(c) {merges} merges", s("ours", "merges and evaluations"), merges * forward, "x bare forwards", "<= 1.02"),
        ("(d) fusion-bench's pipeline over ours", s("fusion_bench_pipeline"), s("our_pipeline"), "x", ">= 30"),
        (
            "(e) fusion-bench's text heads over ours",
            s("fusion_bench_heads"),
            s("our_heads", "first evaluation"),
            "x",
            ">= 2",
        ),
        ("(e) text heads again", s("our_heads"), s("our_heads", "first evaluation"), "x first time", "free"),
    ]
    table = [
        (what, f"{one:.2f} s", f"{one / other:.2f} {unit}", aim)
        for what, one, other, unit, aim in lines
        if one is not None and other is not None
    ]
    for what, aim in (("ms a batch", "<= 1"), ("ms a task", "<= 10")):
        table.append(("(f) over the bare loop, embedded pool", "", f"{s('our_overhead', what):.2f} {what}", aim))
    table.append(
        ("(g) fusion-eval limit=1, whole process", f"{s('start-up', 'seconds'):.2f} s", "", "< 5 + import torch")
    )
    for tool in ("ours", "fusion_bench", "bare"):
        if (megabytes := s(tool, "MB")) is not None:
            table.append((f"(h) peak memory, {tool}", "", f"{megabytes:.0f} MB", ""))
    table.append(("images", "", str(images), ""))
    return table


def start_up(bench: Bench) -> None:
    """The command on one sample a task, from its start to its end; once before, so that files are in the page cache."""
    command = [str(Path(sys.executable).with_name("fusion-eval")), "limit=1", "references=false", "audit=false"]
    place = [f"hydra.run.dir={bench.folder / 'run'}", "store=off", "progress=false"]
    figures = [run_measured([*command, *place], bench.environment, bench.folder / "log.txt").seconds for _ in range(3)]
    bench.found["start-up", "32-true"] = {"seconds": min(figures[1:])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, make the models and images, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="how many (128)")
    parser.add_argument("--merges", type=int, default=20, help="of the sweep (20)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; medians are printed (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of OpenMP (all cores)")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only: installs nothing")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench", help="where the peer lives (.bench)")
    parser.add_argument("--scratch", type=Path, help="where models and images go for the time being (the system's)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    chosen = parser.parse_args(arguments)

    peer = None if chosen.no_peers else install_peers(chosen.cache, TASK_POOL, "task_pool")
    environment = {
        "OMP_NUM_THREADS": str(chosen.threads),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:
        folder = Path(scratch)
        clip, experts = make_clip(folder, _texts())
        data = make_images(folder, chosen.images)
        job = {
            "clip": str(clip),
            "experts": [str(path) for path in experts],
            "data": str(data),
            "merges": chosen.merges,
        }
        bench = Bench(job, folder, peer, environment, chosen.rounds)
        bench.measure(["bare", "ours", "fusion_bench"])
        bench.measure(["bare", "ours"], "bf16-true")
        bench.measure(["our_pipeline", "fusion_bench_pipeline", "our_heads", "fusion_bench_heads", "our_overhead"])
        start_up(bench)

    table = Table(title=f"CLIP ViT-B/32, {chosen.threads} threads, medians of {chosen.rounds}")
    for heading in ("what", "seconds", "ratio", "aim"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows(bench, chosen.images, chosen.merges):
        table.add_row(*row)
    Console(width=110).print(table)
    one, other = (bench.found["ours", precision] for precision in ("32-true", "bf16-true"))
    changes = ", ".join(f"{name} {other[name] - one[name]:+.4f}" for name in ("accuracy", "loss"))
    print(f"bf16 changes {changes}")
    if chosen.json:
        found = {f"{tool} {precision}": figures for (tool, precision), figures in bench.found.items()}
        chosen.json.write_text(json.dumps(found, indent=2))


def _texts() -> list[str]:
    from fusion_eval.models import CLIPTextTower, ZeroShotHead

    return [text for task in TA8 for text in ZeroShotHead(CLIPTextTower("none"), task).prompts().texts]


if __name__ == "__main__":
    main()
