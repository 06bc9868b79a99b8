"""The table of the terminal and the page of Markdown, which must say the same."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.markdown import markdown_page
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, Report, TaskFailure, TaskResult
from fusion_eval.report.rows import aggregate_rows, task_header, task_rows
from fusion_eval.report.table import print_report, results_table

SIZES = {"mnist": 1000, "optdigits": 360, "scripts": 12000, "textures": 900}


def model(accuracy):
    generator = np.random.default_rng(0)
    results = {}
    for task, n in SIZES.items():
        scores = (generator.random(n) < accuracy).astype(float)
        errors = {"accuracy": float(scores.std(ddof=1) / n**0.5)}
        metrics = {"accuracy": float(scores.mean()), "loss": 1.25, "f1": 0.5}
        results[task] = TaskResult(metrics, errors, "accuracy", n, 1.0, {}, scores)
    return results


@pytest.fixture(scope="module")
def references():
    return References(model(0.3), model(0.9))


@pytest.fixture(scope="module")
def report():
    return Report(model(0.7))


@pytest.fixture(scope="module")
def aggregates(report, references):
    return aggregate(report, references)


def terminal(*arguments, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(results_table(*arguments))
    return console.file.getvalue()


def page(report, references, aggregates, **changes):
    options = {"status": "complete", "selected_on": None, "warnings": (), "provenance": provenance({}), **changes}
    return markdown_page(report, references, aggregates, **options)


def parsed(text):
    """Rows of cells of each table, and list items, as a Markdown parser that is not ours sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    tables, items = [], []
    for before, token in itertools.pairwise(tokens):
        if before.type == "table_open":
            tables.append([])
        elif before.type == "tr_open":
            tables[-1].append([])
        if token.type == "inline":
            plain = "".join(child.content for child in token.children)
            if before.type in {"td_open", "th_open"}:
                tables[-1][-1].append(plain)
            elif before.type == "paragraph_open":
                items.append(plain)
    return tables, items


def test_it_fits_80_columns_without_colour_and_loses_nothing(report, references, aggregates):
    text = terminal(report, references, aggregates)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for row in task_rows(report, references, aggregates):
        assert " ".join(row.cells) in lines
    for cells in aggregate_rows(report, aggregates):
        assert " ".join(cells) in lines


def test_a_narrow_terminal_loses_nothing_either(report, references, aggregates, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "45")
    print_report(report, references, aggregates)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for row in task_rows(report, references, aggregates):
        assert " ".join(row.cells) in lines


def test_the_numbers_are_those_of_the_report(report, references, aggregates):
    cells = dict(zip(task_header(report), task_rows(report, references, aggregates)[2].cells, strict=True))
    accuracy, error = (float(part) for part in cells["accuracy"].split(" ± "))
    assert accuracy == pytest.approx(report["scripts"]["accuracy"], abs=5e-5)
    assert error == pytest.approx(report.results["scripts"].standard_errors["accuracy"], abs=5e-5)
    assert (cells["task"], cells["n"], cells["loss"]) == ("scripts", "12,000", "1.2500")
    assert float(cells["expert"]) == pytest.approx(references.experts["scripts"].score, abs=5e-5)
    ratio = report["scripts"]["accuracy"] / references.experts["scripts"].score
    assert float(cells["normalised"].split(" ± ")[0]) == pytest.approx(ratio, abs=5e-5)


def test_every_aggregate_goes_by_its_own_name(report, aggregates):
    assert [cells[0] for cells in aggregate_rows(report, aggregates)] == [
        "mean.accuracy",
        "mean.loss",
        "normalised.mean_of_ratios",
        "normalised.ratio_of_means",
        "normalised.share_of_gap",
        "normalised.share_of_mean_gap",
        "worst.accuracy",
        "worst.normalised",
    ]


def test_markdown_says_the_same(report, references, aggregates):
    tasks, summary, facts = parsed(page(report, references, aggregates, selected_on="validation"))[0]
    assert tasks[0] == list(task_header(report))
    assert tasks[1:] == [list(row.cells) for row in task_rows(report, references, aggregates)]
    assert summary[1:] == [list(cells) for cells in aggregate_rows(report, aggregates)]
    assert dict(facts[1:])["hyper-parameters selected on"] == "validation"
    assert dict(facts[1:])["status"] == "complete"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_failed_task_is_shown_with_its_whole_error(report, references, width):
    message = "the model returned 10 logits, but the task has 12 classes: [give it] a head"
    failed = Report(report.results, {"a|b <i>": TaskFailure("TaskError", message, "")})
    found = aggregate(failed, references)
    text = " ".join(terminal(failed, references, found, width=width).split())
    assert "a|b <i>: TaskError: the model returned" in text
    assert "left out: every aggregate (no result on a|b <i>)" in text
    if width > 40:
        assert "a|b <i> - failed - - -" in text
        assert message in text
    tables, items = parsed(page(failed, references, found, status="partial", warnings=found.warnings))
    assert tables[0][-1] == ["a|b <i>", "-", "failed", "-", "-", "-"]
    assert items == [f"a|b <i>: TaskError: {message}", found.warnings[0]]


def test_a_failed_row_is_red_where_there_is_colour(report, references):
    failed = Report(report.results, {"svhn": TaskFailure("TaskError", "no head", "")})
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(results_table(failed, references, aggregate(failed, references)))
    line = next(line for line in console.file.getvalue().splitlines() if "failed" in line)
    assert "\x1b[31m" in line


def test_a_message_over_many_lines_does_not_break_the_page():
    failed = Report({}, {"a\nb": TaskFailure("KeyError", "one\n\n| two\n# three", "")})
    found = aggregate(failed, References())
    tables, items = parsed(page(failed, References(), found, status="failed", warnings=found.warnings))
    assert tables[0][1][0] == "a b"
    assert items[0] == "a b: KeyError: one | two # three"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.5, 123456.789, 1e-9])
def test_odd_numbers_are_shown(score):
    odd = Report({"a": TaskResult({"spearman": score}, {}, "spearman", 1, 0.0)})
    text = terminal(odd, References(), Aggregates())
    shown = next(line for line in text.splitlines() if line.strip().startswith("a ")).split()[2]
    assert float(shown) == pytest.approx(score, rel=1e-3, abs=1e-4, nan_ok=True)


def test_mixed_primary_metrics_carry_their_names():
    mixed = Report(
        {
            "digits": TaskResult({"accuracy": 0.5}, {}, "accuracy", 10, 0.0),
            "scenes": TaskResult({"miou": 0.25}, {}, "miou", 10, 0.0),
        }
    )
    assert task_header(mixed)[2] == "primary metric"
    cells = [row.cells[2] for row in task_rows(mixed, References(), Aggregates())]
    assert cells == ["accuracy 0.5000", "miou 0.2500"]
