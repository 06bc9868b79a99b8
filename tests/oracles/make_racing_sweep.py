"""Writes racing_sweep.npz: which samples of the embedded pool 20 merges by task arithmetic have right.

    fusion-eval -m 'model.scaling=range(0.05,1.05,0.05)' references=false hydra.sweep.dir=/tmp/sweep
    python tests/oracles/make_racing_sweep.py /tmp/sweep

Arrays: `hits`, bits, merges x samples packed along the samples; `counts`, samples of each task; `scalings`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fusion_eval.report.runs import find_runs

FIXTURE = Path(__file__).with_name("racing_sweep.npz")


def main() -> None:
    runs = sorted(find_runs([Path(sys.argv[1])])[0], key=lambda run: run.config["model"]["scaling"])
    tasks = list(runs[0].tasks)
    hits = np.array([np.concatenate([run.scores(task) for task in tasks]) for run in runs]).astype(bool)
    np.savez_compressed(
        FIXTURE,
        hits=np.packbits(hits, axis=1),
        counts=[len(runs[0].scores(task)) for task in tasks],
        scalings=[run.config["model"]["scaling"] for run in runs],
    )


if __name__ == "__main__":
    main()
