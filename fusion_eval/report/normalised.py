"""The merged model's primary metric relative to that of the experts and of the base.

The literature calls different numbers "normalised accuracy". With m, e and b the primary metric of the merged model, of
the task's own expert and of the base, and T tasks, this module computes:

* `mean_of_ratios` = 1/T sum_t (m_t / e_t), as in task arithmetic (arXiv 2212.04089)
* `ratio_of_means` = sum_t m_t / sum_t e_t, the ratio of two published averages
* `share_of_gap` = 1/T sum_t (m_t - b_t) / (e_t - b_t), each task's share of its base-to-expert gap
* `share_of_mean_gap` = (sum_t m_t - sum_t b_t) / (sum_t e_t - sum_t b_t), the same on the averages, the "performance
  gap recovered" of arXiv 2312.09390: no task whose expert is hardly better than the base dominates it, as in the former

For task arithmetic on CLIP ViT-B/32 (per-task accuracies of arXiv 2310.02575, table 1) they are 0.758, 0.764, 0.301 and
0.497: one run, four numbers.

Their standard errors come from a bootstrap that resamples the samples within each task jointly for m, e and b, so what
the three models have in common cancels; whole groups are resampled where samples come in groups.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_eval.report.clusters import count_units
from fusion_eval.report.record import References, TaskResult
from fusion_eval.report.statistics import Estimate, paired_bootstrap_means, standard_deviation

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NORMALISED", "comparable", "draw_scores", "estimate", "normalise", "ratios_to_experts"]

NORMALISED = ("mean_of_ratios", "ratio_of_means", "share_of_gap", "share_of_mean_gap")

Draws = npt.NDArray[np.float64]
"""Last axis: the observed value, then one value a bootstrap resample; NaN where unknown."""


def comparable(results: Mapping[str, TaskResult], references: References) -> tuple[References, list[str]]:
    """Keep the references that were measured as the results were.

    Returns:
        Those with the same primary metric, number of samples and data fingerprint; and why each other does not count.
    """
    dropped: list[str] = []

    def keep(role: str, others: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
        kept = {}
        for task, result in results.items():
            if (other := others.get(task)) is None:
                continue
            if other.primary != result.primary:
                why = f"its primary metric is {other.primary}, the model's is {result.primary}"
            elif other.count != result.count:
                why = f"it was measured on {other.count} samples, the model on {result.count}"
            elif other.fingerprints.get("data") != result.fingerprints.get("data"):
                why = "it was measured on other data"
            else:
                kept[task] = other
                continue
            dropped.append(f"the {role}'s result on {task} does not count: {why}")
        return kept

    kept = References(keep("base", references.base), keep("expert", references.experts), references.failures)
    return kept, dropped


def draw_scores(
    results: Mapping[str, TaskResult], references: References, resamples: int, seed: int
) -> dict[str, Draws]:
    """Observe and resample the primary metric of the merged model, its expert and the base on each task.

    Args:
        results: Of the merged model.
        references: Comparable with the results.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Task name to shape `(3, 1 + resamples)`. A model without a result is NaN; one without per-sample scores, or
        measured on a single sample or group, is NaN but for the observed value.
    """
    generator = np.random.default_rng(seed)
    draws = {}
    for task, result in results.items():
        models = (result, references.experts.get(task), references.base.get(task))
        groups = result.samples.get("group")
        draws[task] = np.full((3, 1 + resamples), np.nan)
        draws[task][:, 0] = [math.nan if model is None else model.score for model in models]
        scores = {
            row: model.scores
            for row, model in enumerate(models)
            if model is not None and model.scores is not None and count_units(model.count, groups) > 1
        }
        if scores:
            rows = np.stack(list(scores.values()), axis=1)
            draws[task][list(scores), 1:] = paired_bootstrap_means(rows, resamples, generator, groups).T
    return draws


def ratios_to_experts(draws: Mapping[str, Draws]) -> dict[str, Draws]:
    """The ratio m_t / e_t of each task where both are finite and the expert is above zero."""
    return {
        task: _divide(merged, expert)
        for task, (merged, expert, _) in draws.items()
        if math.isfinite(merged[0]) and 0 < expert[0] < math.inf
    }


def normalise(draws: Mapping[str, Draws], ratios: Mapping[str, Draws], mixed: str) -> dict[str, Estimate | str]:
    """The normalised aggregates.

    Args:
        draws: Of every task of the pool, as `draw_scores` returns them.
        ratios: As `ratios_to_experts` returns them.
        mixed: Not empty where the tasks' primary metrics differ: then only ratios may be averaged, for they have no
            unit; the text is the reason given for leaving out the others.

    Returns:
        Name to its estimate, or to why it is left out.
    """
    merged, expert, base = np.stack(list(draws.values()), axis=1).mean(axis=1)
    no_ratio = _lacking("ratio to the expert", [task for task in draws if task not in ratios])
    no_score, no_expert, no_base = (
        _lacking(
            f"finite result of the {role}", [task for task, draw in draws.items() if not math.isfinite(draw[row, 0])]
        )
        for row, role in enumerate(("model", "expert", "base"))
    )
    flat = [task for task, (_, own, start) in draws.items() if not own[0] > start[0]]
    flat_tasks = f"the expert is not above the base on {', '.join(flat)}" if flat else ""
    weak_experts = "" if expert[0] > 0 else "the experts' mean is not above zero"
    no_gap = "" if expert[0] > base[0] else "the experts' mean is not above the base's"
    return {
        "mean_of_ratios": no_score
        or no_expert
        or no_ratio
        or estimate(np.stack([ratios[task] for task in draws]).mean(axis=0)),
        "ratio_of_means": no_score or no_expert or mixed or weak_experts or estimate(_divide(merged, expert)),
        "share_of_gap": no_score
        or no_expert
        or no_base
        or flat_tasks
        or estimate(np.stack([_divide(m - b, e - b) for m, e, b in draws.values()]).mean(axis=0)),
        "share_of_mean_gap": no_score
        or no_expert
        or no_base
        or mixed
        or no_gap
        or estimate(_divide(merged - base, expert - base)),
    }


def estimate(draws: Draws) -> Estimate:
    """The observed value with the standard deviation of its resamples, as `standard_deviation` defines it."""
    return Estimate(float(draws[0]), standard_deviation(draws[1:]))


def _divide(numerator: Draws, denominator: Draws) -> Draws:
    with np.errstate(divide="ignore", invalid="ignore"):  # in a resample an expert may never be right
        return numerator / denominator


def _lacking(what: str, tasks: list[str]) -> str:
    return f"no {what} on {', '.join(tasks)}" if tasks else ""
