from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.report.aggregates import aggregate
from fusion_eval.report.record import References, Report, TaskFailure, TaskResult

# arXiv 2310.02575, table 1: CLIP ViT-B/32, in per cent
TASKS = ("sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
PRETRAINED = (62.3, 59.7, 60.7, 45.5, 31.4, 32.6, 48.5, 43.8)
INDIVIDUAL = (75.3, 77.7, 96.1, 99.7, 97.5, 98.7, 99.7, 79.4)
TASK_ARITHMETIC = (55.2, 54.9, 66.7, 78.9, 80.2, 69.7, 97.3, 50.4)


def value(score, *, primary="accuracy", error=None, count=100, **changes):
    errors = {} if error is None else {primary: error}
    return TaskResult({primary: score}, errors, primary, count, 0.1, **changes)


def scored(scores):
    scores = np.asarray(scores, dtype=np.float64)
    error = float(scipy.stats.sem(scores)) if len(scores) > 1 else None
    return value(float(scores.mean()), error=error, count=len(scores), scores=scores)


def results(scores):
    return {task: value(score) for task, score in zip(TASKS, scores, strict=True)}


@pytest.fixture
def clip():
    return Report(results(TASK_ARITHMETIC)), References(results(PRETRAINED), results(INDIVIDUAL))


@pytest.fixture(scope="module")
def pool():
    """Two tasks whose models agree on many samples: merged, expert and base scores of shape (n, 3)."""
    generator = np.random.default_rng(0)
    found = {}
    for task, n in (("first", 400), ("second", 250)):
        difficulty = generator.random((n, 1)) * 0.7 + generator.random((n, 3)) * 0.3
        found[task] = (difficulty < np.array([0.75, 0.9, 0.4])).astype(float)
    return found


def evaluate(pool, **options):
    merged, experts, base = ({task: scored(scores[:, k]) for task, scores in pool.items()} for k in range(3))
    return aggregate(Report(merged), References(base, experts), **options)


def test_the_numbers_of_the_literature(clip):
    found = aggregate(*clip).groups
    assert found["mean"]["accuracy"].value == pytest.approx(69.1, abs=0.1)
    normalised = {name: round(entry.value, 3) for name, entry in found["normalised"].items()}
    assert normalised == {
        "mean_of_ratios": 0.758,
        "ratio_of_means": 0.764,
        "share_of_gap": 0.301,
        "share_of_mean_gap": 0.497,
    }
    assert (found["worst"]["accuracy"].value, found["worst"]["accuracy"].task) == (50.4, "dtd")
    assert found["worst"]["normalised"].task == "dtd"
    assert found["worst"]["normalised"].value == pytest.approx(50.4 / 79.4)


def test_without_scores_there_are_values_but_no_bootstrap(clip):
    assert {entry.standard_error for entry in aggregate(*clip).groups["normalised"].values()} == {None}


def test_the_error_of_a_mean_of_independent_tasks():
    generator = np.random.default_rng(0)
    tasks = {name: generator.normal(size=size) for name, size in (("a", 50), ("b", 200), ("c", 10))}
    found = aggregate(Report({name: scored(scores) for name, scores in tasks.items()}), References())
    sems = [scipy.stats.sem(scores) for scores in tasks.values()]
    assert found.groups["mean"]["accuracy"].standard_error == pytest.approx(np.sqrt(np.sum(np.square(sems))) / 3)


def test_ratio_errors_agree_with_the_paired_bootstrap_of_scipy(pool):
    found = evaluate(pool, resamples=4000)
    errors = {}
    for task, scores in pool.items():
        errors[task] = scipy.stats.bootstrap(
            tuple(scores[:, :2].T), lambda m, e, axis: m.mean(axis) / e.mean(axis), paired=True, n_resamples=4000, rng=1
        ).standard_error
        assert found.ratios[task].standard_error == pytest.approx(errors[task], rel=0.08)
    together = math.hypot(*errors.values()) / 2
    assert found.groups["normalised"]["mean_of_ratios"].standard_error == pytest.approx(together, rel=0.08)


def test_gap_and_ratio_of_means_errors_agree_with_the_delta_method(pool):
    """For f(means), the variance is grad^T cov grad (statsmodels' and R's delta method); cov adds up over tasks."""
    means = np.mean([scores.mean(0) for scores in pool.values()], axis=0)
    cov = sum(np.cov(scores, rowvar=False) / len(scores) for scores in pool.values()) / len(pool) ** 2
    merged, expert, base = means
    gradients = {
        "ratio_of_means": np.array([1 / expert, -merged / expert**2, 0]),
        "share_of_mean_gap": np.array(
            [1, -(merged - base) / (expert - base), (merged - base) / (expert - base) - 1],
        )
        / (expert - base),
    }
    found = evaluate(pool, resamples=4000).groups["normalised"]
    for name, gradient in gradients.items():
        assert found[name].standard_error == pytest.approx(np.sqrt(gradient @ cov @ gradient), rel=0.08)


def test_pairing_makes_a_model_compared_with_itself_exact(pool):
    experts = {task: scored(scores[:, 1]) for task, scores in pool.items()}
    base = {task: scored(scores[:, 2]) for task, scores in pool.items()}
    for entry in aggregate(Report(experts), References(base, experts)).groups["normalised"].values():
        assert (entry.value, entry.standard_error) == (1.0, 0.0)
    found = aggregate(Report(base), References(base, experts)).groups["normalised"]
    assert (found["share_of_gap"].value, found["share_of_gap"].standard_error) == (0.0, 0.0)


def test_aggregates_are_seeded(pool):
    assert evaluate(pool) == evaluate(pool) != evaluate(pool, seed=1)


@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=5))
def test_values_are_plain_arithmetic(rows):
    merged, expert, base = np.array(rows, dtype=float).T / 10
    names = [f"task{index}" for index in range(len(rows))]
    columns = [{name: value(v) for name, v in zip(names, column, strict=True)} for column in (merged, expert, base)]
    found = aggregate(Report(columns[0]), References(columns[2], columns[1]), resamples=2).groups
    assert found["mean"]["accuracy"].value == pytest.approx(merged.mean())
    assert found["normalised"]["mean_of_ratios"].value == pytest.approx((merged / expert).mean())
    assert found["normalised"]["ratio_of_means"].value == pytest.approx(merged.mean() / expert.mean())
    assert found["worst"]["accuracy"].value == merged.min()
    assert found["worst"]["normalised"].value == pytest.approx((merged / expert).min())
    if expert.sum() - base.sum() > 0.05:
        share = (merged.mean() - base.mean()) / (expert.mean() - base.mean())
        assert found["normalised"]["share_of_mean_gap"].value == pytest.approx(share)
    assert ("share_of_gap" in found["normalised"]) == (expert > base).all()
    if (expert > base).all():
        shares = (merged - base) / (expert - base)
        assert found["normalised"]["share_of_gap"].value == pytest.approx(shares.mean())


def test_nothing_is_aggregated_over_the_tasks_that_happened_to_work(clip):
    report, references = clip
    failed = Report(report.results, {"food101": TaskFailure("TaskError", "no head", "")})
    found = aggregate(failed, references)
    assert found.groups == {}
    assert found.warnings == ("left out: every aggregate (no result on food101)",)
    assert set(found.ratios) == set(TASKS)


def test_an_interrupted_run_is_not_aggregated_as_if_it_were_whole(clip):
    report, references = clip
    found = aggregate(report, references, tasks=[*TASKS, "food101", "cub"])
    assert found.groups == {}
    assert found.warnings == ("left out: every aggregate (no result on food101, cub)",)
    assert aggregate(report, references, tasks=TASKS) == aggregate(report, references)


def test_an_empty_report():
    found = aggregate(Report({}), References())
    assert (found.groups, found.ratios) == ({}, {})
    assert found.warnings == ("left out: every aggregate (there are no tasks)",)


SHARES = {"normalised.share_of_gap", "normalised.share_of_mean_gap"}


@pytest.mark.parametrize(
    ("base", "experts", "absent", "why"),
    [
        ({}, {}, {"normalised", "worst.normalised"}, "no finite result of the expert on a, b"),
        ({"a": value(0.1)}, {}, {"normalised", "worst.normalised"}, "no finite result of the expert on a, b"),
        (
            {"a": value(0.1), "b": value(0.1)},
            {"a": value(0.9)},
            {"normalised", "worst.normalised"},
            "no finite result of the expert on b",
        ),
        (
            {"a": value(0.1)},
            {"a": value(0.9), "b": value(0.9)},
            SHARES,
            "normalised.share_of_gap, normalised.share_of_mean_gap (no finite result of the base on b)",
        ),
        (
            {"a": value(0.5), "b": value(0.7)},
            {"a": value(0.7), "b": value(0.5)},
            SHARES,
            "normalised.share_of_mean_gap (the experts' mean is not above the base's)",
        ),
        (
            {"a": value(0.1), "b": value(0.1)},
            {"a": value(0.9), "b": value(0.0)},
            {"normalised.mean_of_ratios", "normalised.share_of_gap", "worst.normalised"},
            "left out: normalised.mean_of_ratios, worst.normalised (no ratio to the expert on b)",
        ),
        (
            {"a": value(-1.0), "b": value(-1.0)},
            {"a": value(0.0), "b": value(0.0)},
            {"normalised.mean_of_ratios", "normalised.ratio_of_means", "worst.normalised"},
            "normalised.ratio_of_means (the experts' mean is not above zero)",
        ),
        (
            {"a": value(0.1), "b": value(0.1)},
            {"a": value(0.9), "b": value(0.9, count=50)},
            {"normalised", "worst.normalised"},
            "the expert's result on b does not count: it was measured on 50 samples, the model on 100",
        ),
        (
            {"a": value(0.1), "b": value(0.1, fingerprints={"data": "other"})},
            {"a": value(0.9), "b": value(0.9)},
            SHARES,
            "the base's result on b does not count: it was measured on other data",
        ),
        (
            {"a": value(0.1), "b": value(0.1)},
            {"a": value(0.9), "b": value(0.9, primary="f1")},
            {"normalised", "worst.normalised"},
            "the expert's result on b does not count: its primary metric is f1, the model's is accuracy",
        ),
        (
            {"a": value(0.1), "b": value(0.1)},
            {"a": value(0.9), "b": value(math.inf)},
            {"normalised", "worst.normalised"},
            "no finite result of the expert on b",
        ),
    ],
)
def test_what_is_undefined_is_absent_and_says_why(base, experts, absent, why):
    found = aggregate(Report({"a": value(0.5), "b": value(0.6)}), References(base, experts))
    present = set(found.groups) | {f"{g}.{name}" for g, named in found.groups.items() for name in named}
    everything = {
        "mean.accuracy",
        "normalised.mean_of_ratios",
        "normalised.ratio_of_means",
        *SHARES,
        "worst.accuracy",
        "worst.normalised",
    }
    gone = {name for name in everything if name in absent or name.partition(".")[0] in absent}
    assert {name for name in present if "." in name} == everything - gone
    assert any(why in warning for warning in found.warnings), found.warnings


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_one_broken_task_breaks_every_aggregate_of_its_metric_and_no_other(broken):
    report = Report(
        {
            "a": TaskResult({"accuracy": 0.5, "loss": 1.0}, {}, "accuracy", 10, 0.1),
            "b": TaskResult({"accuracy": broken, "loss": 2.0}, {}, "accuracy", 10, 0.1),
        }
    )
    good = {"a": value(0.9, count=10), "b": value(0.9, count=10)}
    found = aggregate(report, References({"a": value(0.1, count=10), "b": value(0.1, count=10)}, good))
    assert {group: list(named) for group, named in found.groups.items()} == {"mean": ["loss"]}
    assert found.groups["mean"]["loss"].value == 1.5
    assert "not finite on b" in " ".join(found.warnings)


def test_metrics_with_different_units_are_not_averaged():
    merged = {"a": value(0.5), "b": value(0.2, primary="miou")}
    experts = {"a": value(1.0), "b": value(0.8, primary="miou")}
    base = {"a": value(0.1), "b": value(0.1, primary="miou")}
    found = aggregate(Report(merged), References(base, experts))
    assert found.groups["normalised"].keys() == {"mean_of_ratios", "share_of_gap"}
    assert found.groups["normalised"]["mean_of_ratios"].value == pytest.approx((0.5 + 0.25) / 2)
    assert found.groups["normalised"]["share_of_gap"].value == pytest.approx((0.4 / 0.9 + 0.1 / 0.7) / 2)
    assert found.groups["worst"].keys() == {"normalised"}
    assert "mean" not in found.groups
    assert any("the primary metrics differ: accuracy, miou" in warning for warning in found.warnings)
    assert any("mean.accuracy (no such metric on b)" in warning for warning in found.warnings)


def test_one_sample_has_a_value_and_no_error():
    found = aggregate(Report({"a": scored([1.0])}), References({"a": scored([0.0])}, {"a": scored([1.0])}))
    errors = {entry.standard_error for named in found.groups.values() for entry in named.values()}
    assert errors == {None}
    assert found.groups["normalised"]["share_of_gap"].value == 1.0


def test_an_expert_that_is_right_once_has_a_ratio_without_an_error():
    found = aggregate(Report({"a": scored([1, 1, 0])}), References(experts={"a": scored([1, 0, 0])}))
    assert found.ratios["a"].value == pytest.approx(2.0)
    assert found.ratios["a"].standard_error is None


def test_where_less_is_better_the_worst_task_has_the_most_and_nothing_is_normalised():
    def loss(value):
        return TaskResult({"loss": value}, {}, "loss", 10, 0.1, higher_is_better=False)

    report = Report({"a": loss(0.2), "b": loss(1.6)})
    found = aggregate(report, References({"a": loss(2.0), "b": loss(2.0)}, {"a": loss(0.1), "b": loss(0.5)}))
    assert found.groups.keys() == {"mean", "worst"}
    assert (found.groups["worst"]["loss"].task, found.groups["worst"]["loss"].value) == ("b", 1.6)
    assert found.ratios == {}
    assert any("a lower primary metric is better on a, b" in warning for warning in found.warnings)
