"""A sweep, the same command again, and again into another directory: wall and processor seconds; and start-up.

    python benchmarks/again.py
    python benchmarks/again.py --merges 8 --rounds 1

README.md beside this file says what came out.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from process import run_measured

COMMAND = str(Path(sys.executable).with_name("fusion-eval"))


def measure(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command whose cache is in a folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"FUSION_EVAL_CACHE": str(folder / "cache"), "OMP_WAIT_POLICY": "passive"}
    seconds = run_measured([COMMAND, *arguments], environment, folder / "log.txt").seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merges", type=int, default=40, help="of the sweep, an even number (40)")
    parser.add_argument("--rounds", type=int, default=3, help="of all but the first sweep; medians are printed (3)")
    chosen = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        scalings = ",".join(f"{number / chosen.merges:.4f}" for number in range(1, chosen.merges // 2 + 1))
        jobs = ["-m", "model=task_arithmetic,ties", f"model.scaling={scalings}"]
        sweep = [*jobs, f"hydra.sweep.dir={folder / 'sweep'}"]
        one = ["limit=1", "references=false", "audit=false", "store=off", f"hydra.run.dir={folder / 'run'}"]
        measure(one, folder)  # files into the page cache
        rows = {f"{chosen.merges} merges": [measure(sweep, folder)]}
        for name, command in (("the same again", sweep), ("start-up: one sample a task", one)):
            rows[name] = [measure(command, folder) for _ in range(chosen.rounds)]
        elsewhere = [[*jobs, f"hydra.sweep.dir={folder / str(number)}"] for number in range(chosen.rounds)]
        rows["into another directory"] = [measure(command, folder) for command in elsewhere]
    print(f"{'':30}  wall s   cpu s   ({os.cpu_count()} cores)")
    for name, figures in rows.items():
        wall, cpu = (median(column) for column in zip(*figures, strict=True))
        print(f"{name:30} {wall:7.2f} {cpu:7.2f}")


if __name__ == "__main__":
    main()
