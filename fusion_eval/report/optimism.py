"""What the best of many is worth: the score of a winner is partly luck, and the more ran, the luckier it was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import Groups, unit_totals

__all__ = ["best_of_many"]

_CHUNK = 4_000_000
"""Counts held in memory at once (float64: 32 MB)."""


def best_of_many(
    scores: Mapping[str, npt.NDArray[np.float64]],
    weights: Mapping[str, float],
    groups: Mapping[str, Groups] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> float:
    """Estimate the true score of the best of several models, each measured on the samples it is chosen by.

    The bootstrap bias correction of Tsamardinos, Greasidou and Borboudakis (arXiv 1708.07180, algorithm 5): choose the
    best model on a resample of the samples, score it on those that the resample left out, and average that over the
    resamples. Samples are resampled within each task, jointly for all models, and by whole groups where they come in
    groups.

    Args:
        scores: Task name to shape `(n, models)`; more is better.
        weights: Task name to the weight of its mean score in the number that is sorted by.
        groups: Task name to shape `(n,)`, for tasks of whose samples those with equal entries belong together.
        resamples: Number of resamples.
        seed: Of the bootstrap.

    Returns:
        The weighted sum of task means that the choice is expected to reach on other samples; rather too low than too
        high, as a resample leaves fewer distinct samples to choose by.

    Example:
        >>> noise = np.random.default_rng(0).random((400, 30)) < 0.5  # 30 models, all of them guessing
        >>> float(noise.mean(axis=0).max()), round(best_of_many({"coin": noise}, {"coin": 1.0}), 2)
        (0.56, 0.51)
    """
    generator = np.random.default_rng(seed)
    models = next(iter(scores.values())).shape[1]
    units = {task: unit_totals(scores[task], (groups or {}).get(task)) for task in weights}
    largest = max(len(sizes) for _, sizes in units.values())
    reached: list[npt.NDArray[np.float64]] = []
    chunk = max(1, _CHUNK // largest)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        inside, outside = np.zeros((size, models)), np.zeros((size, models))
        for task, weight in weights.items():
            totals, sizes = units[task]
            counts = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=size)
            left_out = (counts == 0).astype(np.float64)
            inside += weight * (counts @ totals / (counts @ sizes)[:, None])
            outside += weight * (left_out @ totals / np.maximum(left_out @ sizes, 1)[:, None])
        reached.append(outside[np.arange(size), inside.argmax(axis=1)])
    return float(np.concatenate(reached).mean())
