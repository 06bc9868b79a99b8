"""How long the command takes to start: until the model computes for the first time, and as a whole.

    python benchmarks/start_up.py

README.md beside this file says what is measured and what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from process import run_measured

HERE = Path(__file__).parent
ONE_SAMPLE = ("limit=1", "references=false", "store=off", "progress=false")

Times = tuple[float, float]
"""Wall and processor seconds."""


def measure(folder: Path, environment: Mapping[str, str], rounds: int) -> dict[str, Times]:
    """The least of what was measured, in turn, once files are in the page cache and the embedded data has been built.

    Args:
        folder: Scratch.
        environment: Added to this process's.
        rounds: How often each is measured.
    """
    command = [str(Path(sys.executable).with_name("fusion-eval")), *ONE_SAMPLE, f"hydra.run.dir={folder / 'run'}"]
    stamped = ["modelpool.architecture._target_=stamped_encoder.StampedEncoder"]
    stamped += [f"+modelpool.architecture.path={folder / 'stamp.json'}"]
    settings = {**environment, "FUSION_EVAL_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}

    def whole(*arguments: str) -> Times:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = run_measured(arguments, settings, folder / "log.txt").seconds
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def first_forward() -> Times:
        (folder / "stamp.json").unlink(missing_ok=True)
        started = time.time()
        whole(*command, *stamped)
        at, processor = json.loads((folder / "stamp.json").read_text())
        return at - started, processor

    figures: dict[str, list[Times]] = {"import torch": [], "first forward": [], "whole": []}
    for _ in range(rounds + 1):
        figures["import torch"].append(whole(sys.executable, "-c", "import torch"))
        figures["first forward"].append(first_forward())
        figures["whole"].append(whole(*command, "audit=false"))
    return {what: min(times[1:]) for what, times in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each; the least is printed (3)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), {}, chosen.rounds)
    print(f"{'':40}  wall s   cpu s   ({os.cpu_count()} cores)")
    for what, key in (
        ("import torch", "import torch"),
        ("fusion-eval, to the first forward", "first forward"),
        ("fusion-eval, one sample a task, whole", "whole"),
    ):
        wall, processor = found[key]
        print(f"{what:40} {wall:7.2f} {processor:7.2f}")


if __name__ == "__main__":
    main()
