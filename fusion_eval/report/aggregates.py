"""One number for many tasks, each under its own name with its standard error, or left out with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fusion_eval.report.normalised import NORMALISED, comparable, draw_scores, estimate, normalise, ratios_to_experts
from fusion_eval.report.statistics import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fusion_eval.report.record import References, Report, TaskResult

__all__ = ["Aggregates", "aggregate"]


@dataclass(frozen=True)
class Aggregates:
    """Every aggregate that is defined for a report, and why the others are not.

    Args:
        groups: "mean", "normalised" and "worst" to name to estimate; what is undefined is absent.
        ratios: Task name to its primary metric divided by that of its expert.
        warnings: Why something is absent, a sentence each.
    """

    groups: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    ratios: dict[str, Estimate] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def aggregate(
    report: Report, references: References, *, tasks: Iterable[str] = (), resamples: int = 1000, seed: int = 0
) -> Aggregates:
    """Summarise a report over its tasks; nothing is aggregated over fewer tasks than the pool has.

    * `mean.<metric>`: unweighted mean over the tasks, of every metric that all tasks report. Test sets are independent,
      so its standard error is `sqrt(sum_t se_t^2) / T`.
    * `normalised.<name>`: four numbers that are all called normalised, see `fusion_eval.report.normalised`.
    * `worst.<primary metric>` and `worst.normalised`: the worst primary metric and the lowest ratio to the expert. The
      standard error is that of the task; that it was picked for being the worst is not in it.

    Args:
        report: Results and failures of the merged model.
        references: Results of the base and of the experts. One that was measured on other samples, or has another
            primary metric, does not count.
        tasks: Names of all tasks of the pool, for a report that may have been cut short.
        resamples: Of the paired bootstrap.
        seed: Of the paired bootstrap.

    Example:
        >>> from fusion_eval.report.record import References, Report, TaskResult
        >>> merged = TaskResult({"accuracy": 0.6}, {}, "accuracy", count=10, seconds=0.1)
        >>> expert = TaskResult({"accuracy": 0.8}, {}, "accuracy", count=10, seconds=0.1)
        >>> found = aggregate(Report({"mnist": merged}), References(experts={"mnist": expert}))
        >>> round(found.groups["normalised"]["ratio_of_means"].value, 6)
        0.75
        >>> found.warnings
        ('left out: normalised.share_of_gap, normalised.share_of_mean_gap (no finite result of the base on mnist)',)
    """
    results = report.results
    references, dropped = comparable(results, references)
    draws = draw_scores(results, references, resamples, seed)
    lower = [task for task, result in results.items() if not result.higher_is_better]
    ratio_draws = ratios_to_experts({task: draw for task, draw in draws.items() if task not in lower})
    ratios = {task: estimate(ratio) for task, ratio in ratio_draws.items()}
    unfinished = [task for task in dict.fromkeys((*report.failures, *tasks)) if task not in results]
    if unfinished or not results:
        why = f"no result on {', '.join(unfinished)}" if unfinished else "there are no tasks"
        return Aggregates({}, ratios, (*dropped, f"left out: every aggregate ({why})"))

    primaries = sorted({result.primary for result in results.values()})
    mixed = f"the primary metrics differ: {', '.join(primaries)}" if len(primaries) > 1 else ""
    entries = {
        "mean": _mean(results),
        "normalised": dict.fromkeys(NORMALISED, f"a lower primary metric is better on {', '.join(lower)}")
        if lower
        else normalise(draws, ratio_draws, mixed),
        "worst": _worst(results, ratios, mixed),
    }
    groups: dict[str, dict[str, Estimate]] = {}
    left_out: dict[str, list[str]] = {}
    for group, named in entries.items():
        for name, entry in named.items():
            if isinstance(entry, Estimate):
                groups.setdefault(group, {})[name] = entry
            else:
                left_out.setdefault(entry, []).append(f"{group}.{name}")
    return Aggregates(
        groups, ratios, (*dropped, *(f"left out: {', '.join(names)} ({why})" for why, names in left_out.items()))
    )


def _mean(results: Mapping[str, TaskResult]) -> dict[str, Estimate | str]:
    entries: dict[str, Estimate | str] = {}
    for name in dict.fromkeys(name for result in results.values() for name in result.metrics):
        lacking = [task for task, result in results.items() if name not in result.metrics]
        if not lacking:
            values = {task: result.metrics[name] for task, result in results.items()}
            error = math.hypot(*(result.standard_errors.get(name, math.nan) for result in results.values()))
            entries[name] = _not_finite(values) or Estimate(
                math.fsum(values.values()) / len(values), error / len(values) if math.isfinite(error) else None
            )
        elif any(result.primary == name for result in results.values()):
            entries[name] = f"no such metric on {', '.join(lacking)}"
    return entries


def _worst(results: Mapping[str, TaskResult], ratios: Mapping[str, Estimate], mixed: str) -> dict[str, Estimate | str]:
    scores = {
        task: Estimate(result.score, result.standard_errors.get(result.primary), task)
        for task, result in results.items()
    }
    no_ratio = [task for task in results if task not in ratios]
    worst = min if all(result.higher_is_better for result in results.values()) else max
    return {
        "primary" if mixed else next(iter(results.values())).primary: mixed
        or _not_finite({task: score.value for task, score in scores.items()})
        or worst(scores.values(), key=lambda score: score.value),
        "normalised": f"no ratio to the expert on {', '.join(no_ratio)}"
        if no_ratio
        else min((replace(ratio, task=task) for task, ratio in ratios.items()), key=lambda ratio: ratio.value),
    }


def _not_finite(values: Mapping[str, float]) -> str:
    tasks = [task for task, value in values.items() if not math.isfinite(value)]
    return f"not finite on {', '.join(tasks)}" if tasks else ""
