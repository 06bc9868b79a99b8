"""One measurement of an evaluation in a fresh process: `evaluate_once.py JOB.json`. Runs in the tool's own Python.

A job is a mapping with

* `tool`: what is measured, a function of one of the modules below;
* `clip`, `experts` (two), `data`, `jpeg`: paths, as `clip_and_images` writes them; `distinct`: photographs in `data`;
* `merges`: of a sweep; `pool`: images of a pool like TA8; `precision`; `device`;
* `cache`, `out`: directories.

Packages are imported before the clock starts. Writes seconds and metrics by name to `measured.json` in `out`.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["COUNTS", "TA8", "Job", "Measured"]

Job = dict[str, Any]
Measured = dict[str, float]

TA8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
COUNTS = (19850, 8041, 6300, 2700, 26032, 12630, 10000, 1880)
"""Their test samples."""

_EMBEDDED = ("our_overhead", "our_racing")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tool = job["tool"]
    module = "fusion_bench" if tool.startswith("fusion_bench") else "embedded" if tool in _EMBEDDED else "clip"
    measured = getattr(import_module(f"{module}_tools"), tool)(job)()
    Path(job["out"], "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
