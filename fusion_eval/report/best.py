"""The best of several models: which others are as good as far as one can tell, and how good it really is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import Groups
from fusion_eval.report.optimism import best_of_many
from fusion_eval.report.significance import holm, paired_difference

__all__ = ["against_the_best"]


def against_the_best(
    scores: Sequence[Mapping[str, npt.NDArray[np.float64]]],
    weights: Mapping[str, float],
    groups: Mapping[str, Groups] | None = None,
    *,
    higher_is_better: bool = True,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[list[float], float]:
    """Test the best of several models against each other one.

    Args:
        scores: Of every model, best first: task name to shape `(n,)`.
        weights: Task name to the weight of its mean score in the number that is sorted by.
        groups: Task name to shape `(n,)`, for tasks of whose samples those with equal entries belong together.
        higher_is_better: Of that number.
        resamples: Of the tests.
        seed: Of the tests, and of the correction.

    Returns:
        The p-values of the others, adjusted for their number (Holm); and by how much the number of the best is expected
        to change on other samples, for it was chosen by these: zero, or a change for the worse.

    Example:
        >>> luck = [{"coin": np.random.default_rng(seed).random(400) < 0.5} for seed in (2, 1)]
        >>> p_values, change = against_the_best(luck, {"coin": 1.0})
        >>> p_values[0] > 0.05, change < 0
        (True, True)
    """
    best, *others = scores
    with ThreadPoolExecutor() as threads:  # drawing resamples leaves Python to others
        differences = threads.map(
            lambda other: paired_difference(best, other, weights, groups, resamples=resamples, seed=seed), others
        )
        p_values = [difference.p_value for difference in differences]
    sign = 1.0 if higher_is_better else -1.0
    stacked = {task: sign * np.stack([model[task] for model in scores], axis=1).astype(np.float64) for task in weights}
    seen = sum(weight * float(stacked[task][:, 0].mean()) for task, weight in weights.items())
    return holm(p_values), sign * min(0.0, best_of_many(stacked, weights, groups, seed=seed) - seen)
