"""The pages as text: whole, self-contained, harmless, equal for equal runs."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fusion_eval.errors import FusionEvalError
from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.leaderboard import leaderboard
from fusion_eval.report.page import leaderboard_page, report_page, write_leaderboard_page, write_report_page
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, TaskFailure, TaskResult
from fusion_eval.report.runs import Run, find_runs, read_run
from fusion_eval.report.writer import ReportWriter

VOID = {"meta", "link", "input", "br", "wbr"}
HOSTILE = "</script><script>document.title='taken'</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that elements close in order, and collects what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids = [], [], [], []
        self.scripts, self.tables, self.shown = [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
        if tag == "table":
            self.tables[dict(attributes).get("id")] = self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if "script" in inside:
            self.scripts[-1] += data
        elif "style" not in inside:
            self.shown.append(data)
            if {"td", "th"} & set(inside):
                self.rows[-1][-1] += data


def board_page(directory, **options):
    runs, unread = find_runs([directory])
    return leaderboard_page(leaderboard(runs, unread, resamples=99, **options), runs, directory)


@pytest.fixture
def sweep(make_run, tmp_path):
    jobs = [(0.5, 0.1), (0.8, 0.2), (0.8, 0.3), (0.75, 0.4)]
    for job, (accuracy, density) in enumerate(jobs):
        make_run(f"sweep/{job}", accuracy, seed=job, density=density)
    return tmp_path / "sweep"


def test_the_table_says_what_the_leaderboard_says(sweep):
    board = leaderboard(*find_runs([sweep]), resamples=99)
    page = Page(board_page(sweep))
    _, *rows = page.tables["runs"]
    assert [row[1] for row in rows] == [entry.label for entry in (*board.entries, *board.references)]
    for row, entry in zip(rows, (*board.entries, *board.references), strict=True):
        numbers = [entry.headline.value, *(entry.tasks[task].value for task in board.tasks)]
        assert [float(cell) for cell in (row[2], *row[4:])] == pytest.approx(numbers, abs=5e-5)
    assert [row[0].strip().endswith("=") for row in rows[1:4]] == [entry.tied for entry in board.entries[1:]]


def test_only_the_best_of_a_column_is_bold(sweep):
    text = board_page(sweep)
    table = re.search(r'id="runs">(.*?)</table>', text, re.S)[1]
    rows = [re.findall(r"<td.*?</td>", row) for row in re.findall(r"<tr.*?</tr>", table, re.S)[1:]]
    columns = list(zip(*rows, strict=True))  # rank, headline, interval, two tasks
    for column in (columns[1], columns[3], columns[4]):
        values = [float(re.search(r">(\d\.\d+)", cell)[1]) for cell in column[:4]]
        assert ["best" in cell.split(">")[0] for cell in column] == [v == max(values) for v in values] + [False] * 2


def test_nothing_is_loaded(sweep, make_run):
    for text in (board_page(sweep), report_page(read_run(sweep / "0"))):
        page = Page(text)
        addresses = [value for name, value in page.attributes if name in ("src", "href", "action", "data", "srcset")]
        assert all(address.startswith(("#", "data:,")) for address in addresses)
        assert "@import" not in text
        assert "url(" not in text
        assert "default-src 'none'" in text


def test_equal_runs_give_equal_bytes_wherever_they_lie(sweep, tmp_path):
    write_report_page(sweep / "1")
    first = write_leaderboard_page(leaderboard(*find_runs([sweep]), resamples=99), find_runs([sweep])[0], sweep)
    before = first.read_bytes()
    assert b'"1/report.html"' in before
    moved = shutil.move(sweep, tmp_path / "elsewhere")
    assert board_page(moved).encode() == before
    assert report_page(read_run(moved / "1")).encode() == (moved / "1/report.html").read_bytes()


@pytest.fixture
def hostile_runs(tmp_path):
    """Two runs in which everything that has a name is called after an attack."""
    scores = np.array([True, False, True, False])
    columns = {"index": np.arange(4), "target": np.array([HOSTILE] * 4), "prediction": np.array(["a", HOSTILE] * 2)}
    tasks = [f"{HOSTILE}{index}" for index in range(3)]

    def result(flip):
        right = scores ^ flip
        return TaskResult({HOSTILE: right.mean()}, {HOSTILE: 0.25}, HOSTILE, 4, 1.0, columns, right, {"data": "x"})

    for job in range(2):
        origin = provenance({"model": {"_target_": HOSTILE, HOSTILE: job}, "seed": HOSTILE})
        writer = ReportWriter(tmp_path / str(job), {**origin, "command": HOSTILE}, HOSTILE, {HOSTILE: HOSTILE})
        for task in tasks:
            writer.add(task, result(False))
        references = References({t: result(True) for t in tasks}, {t: result(job == 0) for t in tasks})
        writer.finish(references, aggregate(writer.report, references), [HOSTILE], "complete")
    return tmp_path


def test_whatever_a_run_is_called_stays_text(hostile_runs):
    board, report = Page(board_page(hostile_runs)), Page(report_page(read_run(hostile_runs / "0")))
    for page, scripts in ((board, 2), (report, 1)):
        assert page.tags.count("script") == scripts
        assert "img" not in page.tags
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert any(HOSTILE in text for text in page.shown)
    details = json.loads(board.scripts[0])
    assert HOSTILE in details["runs"][0]["label"]
    assert details["warnings"][0] == HOSTILE


def test_a_run_that_ended_early_has_a_page(make_run, tmp_path):
    page = Page(report_page(read_run(make_run("broken", 0.7, error=FusionEvalError("the disk is <full>")))))
    shown = " ".join(page.shown)
    assert "This run is partial." in shown
    assert "the disk is <full>" in shown
    assert [row[0] for row in page.tables["runs"][1:]] == ["mnist"]
    writer = ReportWriter(tmp_path / "nothing", read_run(tmp_path / "broken").document["provenance"])
    failure = TaskFailure.from_exception(FusionEvalError("no base"))
    writer.finish(References(), Aggregates(), [], "failed", failure)
    assert "no base" in " ".join(Page(report_page(read_run(tmp_path / "nothing"))).shown)


def test_runs_without_references_or_samples_have_pages(make_run, tmp_path):
    for job in range(2):
        make_run(f"sweep/{job}", 0.6, seed=job, density=job)
    runs, _ = find_runs([tmp_path])
    bare = []
    for run in runs:
        document = {**run.document, "references": {"base": {}, "experts": {}}, "samples": {}, "ratios": {}}
        bare.append(Run(run.directory, document))
    page = Page(leaderboard_page(leaderboard(bare, resamples=99), bare, tmp_path))
    assert {"radar", "flips", "changed", "interference"}.isdisjoint(page.ids)
    assert "curves" in page.ids
    assert "radar" not in Page(report_page(bare[0])).ids


def test_damaged_samples_are_left_out(sweep):
    best = leaderboard(*find_runs([sweep]), resamples=99).entries[0].directory
    assert "changed" in Page(board_page(sweep)).ids
    for task in ("mnist", "svhn"):
        (best / f"samples/experts/{task}.parquet").write_bytes(b"PAR1")
    assert "changed" not in Page(board_page(sweep)).ids


def test_numbers_that_are_not_there_are_said_to_be_missing(make_run):
    run = read_run(make_run("run", 0.5))
    run.document["report"]["mnist"]["accuracy"] = None  # as NaN is written
    page = Page(report_page(run))
    assert page.tables["runs"][1][1] == "-"


def test_five_hundred_runs_stay_small(sweep, tmp_path):
    first = find_runs([sweep])[0][0]
    text = json.dumps({**first.document, "samples": {}})
    runs = []
    for job in range(500):
        document = json.loads(text)
        document["provenance"]["config"]["model"] = {"_target_": "Ties", "density": job % 25, "scaling": job // 25}
        document["aggregates"]["mean"]["accuracy"]["value"] = job / 500
        runs.append(Run(tmp_path / str(job), document))
    page = leaderboard_page(leaderboard(runs, resamples=9), runs, tmp_path)
    assert page.count("<tr") > 500
    assert len(page.encode()) < 2_000_000


def test_intervals_of_a_run_are_those_of_each_model(sweep):
    text = report_page(read_run(sweep / "1"))
    for role, folder in (("merged", ""), ("base", "base/"), ("expert", "experts/")):
        told = re.findall(rf'class="of-{role}" title="([^"]+)"', text)
        for task, title in zip(("mnist", "svhn"), told, strict=True):
            right = pd.read_parquet(sweep / f"1/samples/{folder}{task}.parquet").score
            interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
            numbers = [float(number) for number in re.findall(r"\d\.\d+", title)]
            expected = [right.mean(), right.sem(), interval.low, interval.high]
            assert numbers == pytest.approx(expected, abs=1e-3), title


def test_a_run_opens_with_all_its_numbers(sweep):
    for directory in sweep.iterdir():
        write_report_page(directory)
    page = Page(board_page(sweep))
    details = json.loads(page.scripts[0])
    board = leaderboard(*find_runs([sweep]), resamples=99)
    for told, entry in zip(details["runs"], board.entries, strict=True):
        run = read_run(Path(str(entry.directory)))
        numbers = {name: [run.value(name)[0], run.value(name)[1]] for name in run.names()}
        assert told["numbers"].keys() == numbers.keys()
        for name, pair in numbers.items():
            assert told["numbers"][name] == pytest.approx(pair, rel=1e-4)
        assert told["page"] == f"{run.directory.name}/report.html"
        assert [details["warnings"][index] for index in told["warnings"]] == run.document["warnings"]
        settings = {**details["settings"], **told["settings"]}
        assert settings["model.density"] == run.config["model"]["density"]
        assert settings["taskpool.tasks.mnist.data.split"] == "test"
        assert {**details["origin"], **told["origin"]}["versions.torch"] == run.document["provenance"]["versions"][
            "torch"
        ]
    assert "model.density" not in details["settings"]


def test_flips_and_changes_are_those_of_the_samples(sweep):
    """pandas counts them again from the files."""
    run = read_run(sweep / "1")
    page = Page(report_page(run))
    for column, task in enumerate(("mnist", "svhn")):
        roles = {"base": "base/", "expert": "experts/", "merged": ""}
        right = pd.DataFrame(
            {name: pd.read_parquet(sweep / f"1/samples/{role}{task}.parquet").score for name, role in roles.items()}
        )
        flips = page.tables["flip-table"][1:9]
        counted = {tuple(cell == "✓" for cell in row[1:4]): int(row[4 + column]) for row in flips}
        expected = right.groupby(["base", "expert", "merged"]).size()
        assert {pattern: count for pattern, count in counted.items() if count} == expected.to_dict()
        listed = {int(row[1]) for row in page.tables["samples"][1:] if row[0] == task}
        changed = right.index[(right.merged != right.expert) | (right.merged != right.base)]
        assert listed <= set(changed)
        assert len(listed) == min(len(changed), 120)
        lost = set(right.index[right.expert & ~right.merged])
        assert lost <= listed or listed <= lost
