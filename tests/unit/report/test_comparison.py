"""Two runs sample by sample."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from fusion_eval.errors import DataError
from fusion_eval.report.comparison import compare
from fusion_eval.report.comparison_table import comparison_table
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, TaskResult
from fusion_eval.report.runs import read_run
from fusion_eval.report.samples import encode_samples, read_samples
from fusion_eval.report.writer import ReportWriter


def test_tasks_are_tested_as_statsmodels_does(make_run):
    first, second = read_run(make_run("a", 0.7, seed=1)), read_run(make_run("b", 0.8, seed=2))
    found = compare(first, second, resamples=999)
    p_values = []
    for task in ("mnist", "svhn"):
        before, after = first.scores(task).astype(bool), second.scores(task).astype(bool)
        cells = [[(before & after).sum(), (before & ~after).sum()], [(~before & after).sum(), (~before & ~after).sum()]]
        p_values.append(mcnemar(cells, exact=True).pvalue)
        assert found.tasks[task].test == "McNemar"
        assert found.tasks[task].difference.value == pytest.approx(after.mean() - before.mean())
        assert (found.tasks[task].flips.lost, found.tasks[task].flips.gained) == (cells[0][1], cells[1][0])
        assert sum(flips.gained for flips in found.tasks[task].classes.values()) == cells[1][0]
    assert [task.p_value for task in found.tasks.values()] == pytest.approx(p_values)
    adjusted = multipletests(p_values, method="holm")[1]
    assert [task.adjusted for task in found.tasks.values()] == pytest.approx(adjusted)
    means = [np.mean([run.scores(task).mean() for task in ("mnist", "svhn")]) for run in (first, second)]
    assert found.mean.value == pytest.approx(means[1] - means[0])
    assert found.mean.low <= found.mean.value <= found.mean.high


def test_references_make_a_flip_table(make_run):
    run = read_run(make_run("a", 0.7))
    first, second = compare(run, run, resamples=99).tasks["svhn"].patterns
    assert first == second
    assert sum(first.values()) == 250
    learnt = sum(n for name, n in first.items() if "learnt by the expert" in name and "unlearnt" not in name)
    base, expert = (run.scores("svhn", role).astype(bool) for role in ("base", "experts"))
    assert learnt == (~base & expert).sum()


def losses(directory, seed, tasks=("a", "b"), n=80):
    generator = np.random.default_rng(seed)
    writer = ReportWriter(directory, provenance({}))
    for task in tasks:
        loss = generator.exponential(size=n)
        columns = {"index": np.arange(n), "loss": loss}
        result = TaskResult({"loss": loss.mean()}, {}, "loss", n, 1.0, columns, loss, {"data": task}, False)
        writer.add(task, result)
    from fusion_eval.report.aggregates import Aggregates

    writer.finish(References(), Aggregates(), [], "complete")
    return read_run(directory)


def test_other_scores_are_bootstrapped(tmp_path):
    found = compare(losses(tmp_path / "0", 0), losses(tmp_path / "1", 1), resamples=499)
    assert {task.test for task in found.tasks.values()} == {"bootstrap"}
    assert all(task.flips is None and not task.classes for task in found.tasks.values())
    assert found.mean.p_value > 0.001


def test_what_cannot_be_compared_is_named(make_run, tmp_path):
    run, other = read_run(make_run("a", 0.7)), read_run(make_run("b", 0.7, split="val"))
    with pytest.raises(DataError, match="not measured on the same samples"):
        compare(run, other)
    first, second = losses(tmp_path / "0", 0), losses(tmp_path / "1", 1, tasks=("a", "c"))
    assert compare(first, second, resamples=99).left_out == (
        "b: the second run has no result",
        "c: the first run has no result",
    )


def test_scores_that_are_not_finite_are_named_and_prove_nothing(tmp_path):
    first, second = losses(tmp_path / "0", 0), losses(tmp_path / "1", 1)
    path = tmp_path / "1/samples/a.parquet"
    broken = {**read_samples(tmp_path / "1", "a"), "score": np.full(80, np.nan)}
    path.write_bytes(encode_samples(broken))
    found = compare(first, second, resamples=99)
    assert list(found.tasks) == ["b"]
    assert found.left_out == ("a: the second run has samples without a finite score",)


def test_two_runs_of_one_sample_have_a_table_without_intervals(tmp_path):
    first, second = (losses(tmp_path / str(seed), seed, n=1) for seed in (0, 1))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(comparison_table(compare(first, second), ("before", "after")))
    assert "nan" not in console.file.getvalue()


def test_the_table_shows_it(make_run):
    first, second = read_run(make_run("a", 0.6, seed=1)), read_run(make_run("b", 0.8, seed=2))
    found = compare(first, second, resamples=999)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(comparison_table(found, ("before", "after"), classes=True))
    text = console.file.getvalue()
    assert "A: before" in text
    assert f"{found.tasks['mnist'].difference.value:+.4f}" in text
    assert "kept: all three right" in text
    assert "svhn: class" in text
    assert "…" not in text
