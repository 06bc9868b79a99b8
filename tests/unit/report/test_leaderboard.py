"""Ranking, ties, warnings, and the four files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from scipy import stats

from fusion_eval.errors import ConfigError
from fusion_eval.report.intervals import score_interval
from fusion_eval.report.leaderboard import leaderboard
from fusion_eval.report.leaderboard_files import write_leaderboard
from fusion_eval.report.leaderboard_table import leaderboard_table
from fusion_eval.report.runs import find_runs

FILES = [f"leaderboard.{suffix}" for suffix in ("csv", "md", "tex", "json")]


def board_of(tmp_path, **options):
    return leaderboard(*find_runs([tmp_path]), **{"resamples": 999, **options})


@pytest.fixture
def sweep(make_run, tmp_path):
    for job, (accuracy, seed) in enumerate([(0.5, 0), (0.8, 1), (0.8, 2), (0.75, 3)]):
        make_run(f"sweep/{job}", accuracy, seed=seed, density=job / 10)
    return tmp_path / "sweep"


def test_the_best_comes_first_with_its_interval(sweep):
    board = board_of(sweep)
    values = [entry.headline.value for entry in board.entries]
    assert board.sort == "mean.accuracy"
    assert values == sorted(values, reverse=True)
    assert board.entries[-1].label == "Ties density=0.0"
    best = board.entries[0]
    [run] = [run for run in find_runs([sweep])[0] if run.directory == best.directory]
    shares, sizes = [cell.value for cell in best.tasks.values()], list(run.document["counts"].values())
    assert (best.headline.low, best.headline.high) == score_interval(shares, sizes)
    cell = best.tasks["mnist"]
    interval = stats.binomtest(round(cell.value * 400), 400).proportion_ci(method="wilson")
    assert (cell.low, cell.high) == pytest.approx((interval.low, interval.high))
    assert [entry.label for entry in board.references] == ["base", "experts, each on its own task"]
    assert board.references[0].headline.value < values[-1] < board.references[1].headline.value


def test_ties_are_those_that_a_paired_test_does_not_tell_apart(sweep):
    """The second best is as good but for luck; the last is much worse; p-values are adjusted for three pairs."""
    board = board_of(sweep)
    assert board.entries[0].p_value is None
    assert board.entries[1].p_value > 0.05 > board.entries[3].p_value
    assert [entry.tied for entry in (*board.entries[:2], board.entries[3])] == [True, True, False]
    runs = {run.directory: run for run in find_runs([sweep])[0]}
    best, last = (runs[board.entries[i].directory] for i in (0, 3))
    z = sum(best.scores(task).mean() - last.scores(task).mean() for task in best.tasks) / np.sqrt(
        sum(stats.sem(best.scores(task) - last.scores(task)) ** 2 for task in best.tasks)
    )
    assert board.entries[3].p_value == pytest.approx(3 / 1000)  # the least that 999 resamples can give, times three
    assert 3 * 2 * stats.norm.sf(z) < 0.003


def test_any_number_sorts_and_less_can_be_better(sweep):
    assert board_of(sweep, sort="normalised.mean_of_ratios").entries[-1].label == "Ties density=0.0"
    by_task = board_of(sweep, sort="svhn.accuracy").entries
    values = [entry.tasks["svhn"].value for entry in by_task]
    assert values == sorted(values, reverse=True) == [entry.headline.value for entry in by_task]
    losses = [entry.headline.value for entry in board_of(sweep, sort="mean.loss", ascending=True).entries]
    assert losses == sorted(losses)
    assert board_of(sweep, sort="mean.loss", ascending=True).entries[1].p_value is None
    with pytest.raises(ConfigError, match=r"no run has 'mean.acuracy'; did you mean 'mean.accuracy'"):
        board_of(sweep, sort="mean.acuracy")


def test_the_headline_test_agrees_with_the_ratio_of_sums(sweep):
    """Ratios to fixed experts weigh tasks; the p-value follows these weights, not those of the mean."""
    by_mean, by_ratio = board_of(sweep), board_of(sweep, sort="normalised.ratio_of_means")
    assert [entry.p_value for entry in by_mean.entries] == [entry.p_value for entry in by_ratio.entries]


def test_many_equal_models_are_not_believed(make_run, tmp_path):
    for seed in range(12):
        make_run(f"{seed}", 0.7, seed=seed)
    board = board_of(tmp_path)
    truth = np.mean([entry.headline.value for entry in board.entries])
    assert board.corrected < board.entries[0].headline.value
    assert abs(board.corrected - truth) < board.entries[0].headline.value - truth


def test_selection_is_told_loudly(make_run, tmp_path):
    make_run("0", 0.7, density=0.1, selected_on="val", split="val")
    make_run("1", 0.6, density=0.2, selected_on="val", split="val")
    [leak] = board_of(tmp_path).warnings
    assert leak.startswith("CHOSEN AND MEASURED ON THE SAME SPLIT (val)")
    make_run("2", 0.9, density=0.3, selected_on="test")
    make_run("3", 0.9, density=0.3)
    mixed, leak, data = board_of(tmp_path).warnings
    assert "not recorded (1 run), test (1 run), val (2 runs)" in mixed
    assert "(test, val)" in leak
    assert data.startswith("DIFFERENT DATA")


def test_runs_on_other_data_are_not_tested_against_the_best(make_run, tmp_path):
    make_run("0", 0.8, density=0.1)
    make_run("1", 0.6, density=0.2, split="val")
    board = board_of(tmp_path)
    assert board.entries[1].p_value is None
    assert not board.entries[1].tied
    assert board.corrected is None


def test_what_is_not_complete_is_named_below(sweep, make_run):
    make_run("sweep/4", 0.9, density=0.4, error=RuntimeError("out of\nmemory"))
    make_run("sweep/5", 0.9, density=0.5, finish=False)
    (sweep / "6").mkdir()
    (sweep / "6/report.json").write_text("garbage")
    (sweep / "1/samples/mnist.parquet").unlink()
    board = board_of(sweep)
    assert len(board.entries) == 4
    assert board.unranked[0] == "Ties density=0.4: partial; RuntimeError: out of memory"
    assert "Ties density=0.5: unfinished" in board.unranked[1]
    assert "6/report.json: not JSON" in board.unranked[2]
    assert any("mnist" in warning for warning in board.warnings)
    without = next(entry for entry in board.entries if entry.label == "Ties density=0.1")
    assert without.p_value is None


def test_nothing_to_rank(make_run, tmp_path):
    with pytest.raises(ConfigError, match="no complete run"):
        board_of(tmp_path)
    make_run("0", 0.9, error=RuntimeError("out of memory"))
    with pytest.raises(ConfigError, match="out of memory"):
        board_of(tmp_path)


def test_equal_runs_give_equal_bytes_wherever_they_are(sweep, tmp_path):
    write_leaderboard(board_of(sweep), sweep)
    first = [(sweep / name).read_bytes() for name in FILES]
    write_leaderboard(board_of(sweep), sweep)
    assert [(sweep / name).read_bytes() for name in FILES] == first
    moved = shutil.move(sweep, tmp_path / "moved")
    write_leaderboard(board_of(moved), moved)
    assert [(moved / name).read_bytes() for name in FILES] == first


def test_all_files_say_the_same(sweep):
    board = board_of(sweep)
    write_leaderboard(board, sweep)
    table = pd.read_csv(sweep / "leaderboard.csv", dtype={"directory": str})
    assert table["headline"].tolist() == [entry.headline.value for entry in board.entries]
    assert table["directory"].tolist()[-1] == "0"
    assert table["tied"].tolist() == [entry.tied for entry in board.entries]
    assert table["svhn.accuracy"].tolist() == [entry.tasks["svhn"].value for entry in board.entries]
    document = json.loads((sweep / "leaderboard.json").read_text())
    assert [entry["headline"]["value"] for entry in document["entries"]] == table["headline"].tolist()
    assert document["entries"][-1]["directory"] == "0"
    tokens = MarkdownIt("commonmark").enable("table").parse((sweep / "leaderboard.md").read_text())
    cells = [token.content for token in tokens if token.type == "inline"]
    for entry in board.entries:
        assert entry.label in cells
        assert f"{entry.headline.value:.4f} ± {entry.headline.standard_error:.4f}" in cells


def test_latex_marks_the_best_and_the_ties_and_escapes(make_run, tmp_path):
    make_run("0", 0.9, seed=1, path="a_b&c%{}")
    make_run("1", 0.9, seed=2, path="x^2~\\")
    make_run("2", 0.4, seed=3, path="#1$")
    write_leaderboard(board_of(tmp_path), tmp_path)
    text = (tmp_path / "leaderboard.tex").read_text()
    assert r"a\_b\&c\%\{\}" in text
    assert r"x\textasciicircum{}2\textasciitilde{}\textbackslash{}" in text
    assert text.count(r"\underline{") == 1
    assert text.count(r"\textbf{") >= 3  # of the mean, and of each task
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {3}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(sweep, tmp_path):
    write_leaderboard(board_of(sweep), tmp_path)
    (tmp_path / "page.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{leaderboard}\end{document}"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "page"], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_terminal_shows_every_run_and_loses_nothing(sweep, width):
    board = board_of(sweep)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(leaderboard_table(board))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for entry in board.entries:
        assert f"{entry.headline.value:.4f} ± {entry.headline.standard_error:.4f}" in text
    assert f"{board.corrected:.4f}" in text
