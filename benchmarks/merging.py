"""Merge the same checkpoints with fusion_eval, mergekit and fusion-bench: seconds, memory, and how near the limit.

    python benchmarks/merging.py
    python benchmarks/merging.py --methods average ties --rounds 9 --threads 1 --json times.json

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import yaml
from merge_once import mergekit_recipe
from peers import install_peers
from process import run_measured
from random_models import make_models
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

HERE = Path(__file__).parent
METHODS = {
    "average": ("fusion_bench", "mergekit", "mergekit-yaml"),
    "task_arithmetic": ("fusion_bench", "mergekit", "mergekit-yaml"),
    "ties": ("fusion_bench",),
    "ties_per_tensor": ("mergekit", "mergekit-yaml"),
}
"""Method to the peers that have it: fusion-bench trims task vectors as a whole, mergekit each tensor on its own."""
OURS = {"ours": "read", "ours_to_file": "read_write"}
"""What of ours is measured, and the limit it is compared with."""
LIMITS = (*OURS.values(), "arithmetic")
OF_THE_KIND = {"fusion_bench": "ours", "mergekit": "ours_to_file", "mergekit-yaml": "ours_to_file"}
"""Peer to what of ours does the same: merges into a module, or into a file."""


@dataclass(frozen=True)
class Row:
    """What one tool took for one method: medians over the rounds.

    Attributes:
        method: A key of `METHODS`.
        tool: A key of `merge_once.TOOLS`, or "mergekit-yaml".
        seconds: The merge alone, packages imported; of the command, which can not be parted, the whole process.
        process_seconds: The whole process, from the start of Python on.
        megabytes: Peak of what the merge allocated, the merged model included: anonymous memory beyond that after the
            imports; of the command, all anonymous memory.
        peak_megabytes: Peak resident memory of the process, with imports and the mapped pages of the checkpoints.
        difference: Largest absolute difference of a merged weight to ours; None for limits.
    """

    method: str
    tool: str
    seconds: float
    process_seconds: float
    megabytes: float
    peak_megabytes: float
    difference: float | None


@dataclass(frozen=True)
class Bench:
    """Where the models are, and who merges them with what.

    Attributes:
        folder: Scratch; holds the models.
        base: Its checkpoint.
        experts: Name to checkpoint.
        peers: Python that has the peers; None leaves them out.
        environment: Of every process measured.
        limit: Seconds that a process may take. A tool that takes longer at first is left out.
    """

    folder: Path
    base: Path
    experts: Mapping[str, Path]
    peers: Path | None
    environment: Mapping[str, str]
    limit: float | None = None

    def tools(self, method: str) -> list[str]:
        """What is measured for a method: limits, ours, peers."""
        return [*LIMITS, *OURS, *(METHODS[method] if self.peers else ())]

    def measure(self, method: str, rounds: int) -> Iterator[Row]:
        """Each tool once to compare what they make; then all in turn, `rounds` times."""
        differences = self._differences(method)
        measured: dict[str, list[tuple[float, ...]]] = {tool: [] for tool in differences}
        for _ in range(rounds):
            for tool, figures in measured.items():
                figures.append(self._run(method, tool))
        for tool, figures in measured.items():
            yield Row(method, tool, *(median(column) for column in zip(*figures, strict=True)), differences[tool])

    def _differences(self, method: str) -> dict[str, float | None]:
        """Of each tool that ends within the limit."""
        found: dict[str, float | None] = {}
        for tool in self.tools(method):
            try:
                self._run(method, tool, keep=True)
            except TimeoutError:
                print(f"{method}: {tool} did not end within {self.limit:.0f} s and is left out", file=sys.stderr)
                continue
            found[tool] = None if tool in LIMITS else self._difference(tool)
        return found

    def _difference(self, tool: str) -> float:
        """Between what the tool has just merged and what ours merged."""
        file = self._out / "model.safetensors"
        merged = load_file(file)
        if tool == "ours":
            file.replace(self._reference)
            return 0.0
        return max(float((merged[name] - tensor).abs().max()) for name, tensor in load_file(self._reference).items())

    def _run(self, method: str, tool: str, keep: bool = False) -> tuple[float, ...]:
        """The figures of a `Row`, in its order."""
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir()
        experts = {name: str(path) for name, path in self.experts.items()}
        job = {"tool": tool, "method": method, "base": str(self.base), "experts": experts, "keep": keep}
        command = self._command(job | {"out": str(self._out)})
        self._warm_up()
        usage = run_measured(command, self.environment, self.folder / "log.txt", self.limit)
        measured = {"seconds": usage.seconds, "anonymous_before": 0}
        if tool != "mergekit-yaml":
            measured = json.loads((self._out / "measured.json").read_text())
        allocated = usage.peak.anonymous - measured["anonymous_before"]
        return measured["seconds"], usage.seconds, allocated / 1e6, usage.peak.total / 1e6

    def _warm_up(self) -> None:
        """Read the models, as what ran before may have driven them out of the page cache."""
        buffer = bytearray(2**20)
        for path in (self.base, *self.experts.values()):
            with Path(path, "model.safetensors").open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def _command(self, job: dict[str, object]) -> list[str]:
        if job["tool"] == "mergekit-yaml":
            recipe = self.folder / "recipe.yml"
            recipe.write_text(yaml.safe_dump(mergekit_recipe(job)))
            return [str(self.peers.with_name("mergekit-yaml")), str(recipe), str(job["out"])]
        description = self.folder / "job.json"
        description.write_text(json.dumps(job))
        python = str(self.peers) if job["tool"] in OF_THE_KIND else sys.executable
        return [python, str(HERE / "merge_once.py"), str(description)]

    @property
    def _out(self) -> Path:
        return self.folder / "out"

    @property
    def _reference(self) -> Path:
        return self.folder / "reference.safetensors"


def tabulate(rows: Sequence[Row], model_megabytes: float) -> Table:
    """The rows, with the ratios that the reader wants."""
    seconds = {(row.method, row.tool): row.seconds for row in rows}
    table = Table(caption=f"One model is {model_megabytes:.0f} MB. README.md says what the columns are.")
    for heading in ("method", "tool"):
        table.add_column(heading)
    for heading in ("merge s", "process s", "MB", "peak MB", "x limit", "x ours", "max |difference|"):
        table.add_column(heading, justify="right")
    for row in rows:
        ours = OF_THE_KIND.get(row.tool, row.tool)
        limit = OURS.get(ours, "read" if row.tool == "arithmetic" else row.tool)
        table.add_row(
            row.method,
            row.tool,
            f"{row.seconds:.2f}",
            f"{row.process_seconds:.1f}",
            f"{row.megabytes:.0f}",
            f"{row.peak_megabytes:.0f}",
            f"{row.seconds / seconds[row.method, limit]:.2f}",
            f"{row.seconds / seconds[row.method, ours]:.2f}" if row.tool in OF_THE_KIND else "",
            "" if row.difference is None else f"{row.difference:.1e}",
            end_section=row.tool == list(dict(seconds))[-1][1] or row.tool == "mergekit-yaml",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, make the models, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8, help="how many (8)")
    parser.add_argument("--layers", type=int, default=12, help="transformer blocks of each model (12: ViT-B/32)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help="(all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tool; medians are printed (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of OpenMP (all cores)")
    parser.add_argument("--limit", type=float, help="seconds; a tool whose process takes longer is left out (none)")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limits only: installs nothing")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench", help="where the peers live (.bench)")
    parser.add_argument("--scratch", type=Path, help="where the models go for the time being (the system's)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    chosen = parser.parse_args(arguments)

    peers = None if chosen.no_peers else install_peers(chosen.cache)
    environment = {
        "OMP_NUM_THREADS": str(chosen.threads),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:
        with console.status("making models"):
            base, experts = make_models(Path(scratch), chosen.experts, chosen.layers)
        bench = Bench(Path(scratch), base, experts, peers, environment, chosen.limit)
        rows = []
        for method in chosen.methods:
            with console.status(f"merging: {method}"):
                rows += bench.measure(method, chosen.rounds)
        model_megabytes = (base / "model.safetensors").stat().st_size / 1e6
    Console(width=None if sys.stdout.isatty() else 120).print(tabulate(rows, model_megabytes))
    if chosen.json:
        settings = {"experts": chosen.experts, "layers": chosen.layers, "threads": chosen.threads}
        document = settings | {"model_megabytes": model_megabytes, "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
