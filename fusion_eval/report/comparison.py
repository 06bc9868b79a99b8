"""Two runs, sample by sample: which is better on each task and on the whole, and is that more than luck?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_eval.errors import DataError
from fusion_eval.report.flips import Flips, count_flips, count_patterns, flips_by_class
from fusion_eval.report.headline import more_is_better
from fusion_eval.report.runs import Run
from fusion_eval.report.significance import Difference, holm, mcnemar_exact, paired_difference

__all__ = ["Comparison", "TaskComparison", "compare"]


@dataclass(frozen=True)
class TaskComparison:
    """One task.

    Args:
        metric: The primary metric.
        first: Its value for the first run.
        second: Its value for the second run.
        difference: Second minus first.
        test: "McNemar" (exact) where scores are right or wrong, else "bootstrap"; "sign flips" where samples come in
            groups.
        p_value: Of that test.
        adjusted: The p-value adjusted for the number of tasks (Holm).
        flips: From the first run to the second; None where scores are not right or wrong.
        classes: The same for each class.
        patterns: From base over expert to the first and the second run; None where a reference left no samples.
    """

    metric: str
    first: float
    second: float
    difference: Difference
    test: str
    p_value: float
    adjusted: float
    flips: Flips | None
    classes: dict[int, Flips]
    patterns: tuple[dict[str, int], dict[str, int]] | None


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Args:
        tasks: Task name to its comparison, for the tasks that both measured alike.
        mean: Of the mean of the primary metrics over those tasks, second minus first; None where the metrics differ.
        left_out: Tasks that cannot be compared, and why.
    """

    tasks: dict[str, TaskComparison]
    mean: Difference | None
    left_out: tuple[str, ...]


def compare(first: Run, second: Run, *, resamples: int = 9999, seed: int = 0) -> Comparison:
    """Compare two runs from their per-sample files.

    A task with right and wrong answers is tested by the exact McNemar test, others and the mean by a paired bootstrap,
    stratified by task. Intervals are of the bootstrap. Where samples come in groups, flipped signs of whole groups take
    the place of both tests, and the bootstrap is one over groups.

    Args:
        first: What is compared with, for example the run in use so far.
        second: What is compared.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DataError: There is no task to compare, or a per-sample file is broken; the message says why.
    """
    left_out, scores = [], {}
    for task in dict.fromkeys((*first.tasks, *second.tasks)):
        if why := _incomparable(first, second, task):
            left_out.append(f"{task}: {why}")
        else:
            scores[task] = (_scores(first, task), _scores(second, task))
    if not scores:
        raise DataError(f"{first.directory} and {second.directory} have no task to compare: {'; '.join(left_out)}")

    groups = {task: columns["group"] for task in scores if "group" in (columns := first.samples(task))}
    differences = {
        task: paired_difference({task: after}, {task: before}, {task: 1.0}, own, resamples=resamples, seed=seed)
        for task, (before, after) in scores.items()
        for own in [{task: groups[task]} if task in groups else {}]
    }
    binary = {task: all(np.isin(values, (0.0, 1.0)).all() for values in pair) for task, pair in scores.items()}
    flips = {task: count_flips(*pair) for task, pair in scores.items() if binary[task]}
    tests = {
        task: "sign flips" if task in groups else "McNemar" if binary[task] else "bootstrap" for task in differences
    }
    p_values = {
        task: mcnemar_exact(flips[task].gained, flips[task].lost) if tests[task] == "McNemar" else difference.p_value
        for task, difference in differences.items()
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    tasks = {}
    for task, (before, after) in scores.items():
        target = first.samples(task).get("target")
        tasks[task] = TaskComparison(
            metric=first.primary(task),
            first=float(before.mean()),
            second=float(after.mean()),
            difference=differences[task],
            test=tests[task],
            p_value=p_values[task],
            adjusted=adjusted[task],
            flips=flips.get(task),
            classes=flips_by_class(before, after, target) if binary[task] and target is not None else {},
            patterns=_patterns(first, second, task) if binary[task] else None,
        )
    mean = None
    if len({(first.primary(task), more_is_better(f"{task}.{first.primary(task)}", [first])) for task in scores}) == 1:
        weights = dict.fromkeys(scores, 1 / len(scores))
        befores = {task: before for task, (before, _) in scores.items()}
        afters = {task: after for task, (_, after) in scores.items()}
        mean = paired_difference(afters, befores, weights, groups, resamples=resamples, seed=seed)
    return Comparison(tasks, mean, tuple(left_out))


def _incomparable(first: Run, second: Run, task: str) -> str:
    for name, run in (("first", first), ("second", second)):
        if task not in run.tasks:
            return f"the {name} run has no result"
        if run.scores(task) is None:
            return f"the {name} run left no per-sample scores: its primary metric is no mean over samples"
        if not np.isfinite(_scores(run, task)).all():
            return f"the {name} run has samples without a finite score"
    if first.data(task) != second.data(task):
        return "not measured on the same samples with the same primary metric"
    if not np.array_equal(first.samples(task)["index"], second.samples(task)["index"]):
        return "not measured on the same samples"
    return ""


def _scores(run: Run, task: str) -> npt.NDArray[np.float64]:
    return run.samples(task)["score"].astype(np.float64)


def _patterns(first: Run, second: Run, task: str) -> tuple[dict[str, int], dict[str, int]] | None:
    base, expert = first.scores(task, "base"), first.scores(task, "experts")
    if base is None or expert is None:
        return None
    found = [count_patterns({"base": base, "expert": expert, "merged": _scores(run, task)}) for run in (first, second)]
    return found[0], found[1]
