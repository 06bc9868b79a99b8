"""The encoder of the embedded pool, which notes when it computes for the first time: see `start_up`."""

from __future__ import annotations

import json
import time
from pathlib import Path

from torch import Tensor

from fusion_eval.zoo import Encoder

__all__ = ["StampedEncoder"]


class StampedEncoder(Encoder):
    """Leaves the time and the processor seconds that the process has had in a file, before its first forward.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def forward(self, images: Tensor) -> Tensor:
        if not self.path.exists():
            self.path.write_text(json.dumps([time.time(), time.process_time()]))
        return super().forward(images)
