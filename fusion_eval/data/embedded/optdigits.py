"""`optdigits`: handwritten digits of 8x8 pixels.

Origin: "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI repository, doi 10.24432/C50P49),
its test half of 1,797 digits as scikit-learn ships it. Licence: CC BY 4.0.

The file holds 14 runs of about 130 digits, nearly all starting 01234567890123456789, by 13 writers. Splits are whole
runs, so no handwriting is in two splits (but for that of the one writer with two runs, who may be).
"""

from __future__ import annotations

import numpy as np

from fusion_eval.data.embedded.images import SIDE, GreyImages, package_file

__all__ = ["optdigits"]

_RUNS = {"train": slice(0, 915), "val": slice(915, 1157), "test": slice(1157, 1797)}  # 7, 2 and 5 runs


def optdigits(split: str) -> GreyImages:
    """915 train, 242 val and 640 test digits, 10 classes; each of the 8x8 pixels becomes a block of 4x4."""
    table = np.loadtxt(package_file("sklearn", "datasets/data/digits.csv.gz"), delimiter=",")[_RUNS[split]]
    digits = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    block = SIDE // 8
    return GreyImages(
        pixels=digits.repeat(block, axis=1).repeat(block, axis=2),
        targets=table[:, -1].astype(np.int64),
    )
