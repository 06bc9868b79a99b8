"""Plots, curves and matrices: what is drawn is what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Entry, Leaderboard
from fusion_eval.report.page.cells import column, losses
from fusion_eval.report.page.changes import changed_samples, count_changed
from fusion_eval.report.page.curves import curve, shared_range
from fusion_eval.report.page.fates import losing_classes
from fusion_eval.report.page.interference import interference
from fusion_eval.report.page.radar import radar
from fusion_eval.report.page.svg import element, scale, ticks
from fusion_eval.report.page.sweeps import Line, Panel, sweep_panels
from fusion_eval.report.page.trios import Trio
from fusion_eval.report.runs import Run

ROLES = (("base", [2.0, 1.0]), ("expert", [2.0, 1.0]), ("merged", [1.0, 3.0]))
FINITE = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


@given(FINITE, st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_round_even_and_inside(low, span, most):
    found = ticks(low, low + span, most)
    assert 0 < len(found) <= most or (not found and most == 2)
    tolerance = 1e-6 * max(1.0, abs(low), span)
    assert all(low - tolerance <= tick <= low + span + tolerance for tick in found)
    steps = np.diff(found)
    if len(steps):
        assert steps == pytest.approx(steps[0], rel=1e-3)
        assert round(steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6), 3) in (1, 2, 5)


def test_logarithmic_scale():
    across = scale((0.01, 1.0), (0.0, 100.0), log=True)
    assert [across(x) for x in (0.01, 0.1, 1.0)] == pytest.approx([0, 50, 100])
    assert scale((3.0, 3.0), (0.0, 100.0))(3.0) == 50


@given(st.text())
def test_text_in_a_plot_is_text(text):
    printable = "".join(c for c in text if c.isprintable())
    assert ElementTree.fromstring(element("text", printable, x=1.0)).text in (printable, None if not printable else "")


def points(polygon):
    return np.array([[float(x) for x in pair.split(",")] for pair in polygon.get("points").split()])


def test_a_model_as_good_as_its_experts_lies_on_their_ring():
    names = ["a", "b", "c", "d", "e"]
    drawing = ElementTree.fromstring(radar(names, {"same": [1.0] * 5, "half": [0.5] * 5, "x < y": [0, 0, 0, 0, 0.25]}))
    shapes = {p.get("class"): points(p) for p in drawing.iter("polygon")}
    assert shapes["shape line-0"] == pytest.approx(shapes["experts"])
    assert pdist(shapes["shape line-1"]) == pytest.approx(pdist(shapes["experts"]) / 2, abs=0.2)
    centre = points(drawing.find("polygon")).mean(axis=0)
    assert shapes["shape line-2"][:4] == pytest.approx(np.tile(centre, (4, 1)), abs=0.2)
    assert radar(["a", "b"], {"m": [1, 1]}) is None


def test_far_better_than_an_expert_stays_in_the_picture():
    drawing = ElementTree.fromstring(radar(["a", "b", "c"], {"m": [40.0, 1.0, -3.0]}))
    corners = np.concatenate([points(p) for p in drawing.iter("polygon")])
    assert (corners >= 0).all()
    assert (corners <= [360, 280]).all()


def test_points_of_a_curve_lie_where_their_numbers_say():
    measured = [(x, Measured(y, 0.01, y - 0.02, y + 0.02)) for x, y in [(0.1, 0.5), (0.2, 0.7), (0.5, 0.6)]]
    panel = Panel("Ties", "density", (Line("", tuple(measured)),))
    levels = {"experts": 0.8}
    limits = shared_range([panel], levels)
    assert limits[0] < 0.48 < 0.8 < limits[1]
    drawing = ElementTree.fromstring(curve(panel, limits, levels))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in drawing.iter("circle")]
    across, up = np.array(dots).T
    assert np.polyfit([0.1, 0.2, 0.5], across, 1, full=True)[1] == pytest.approx(0, abs=0.05)
    assert np.polyfit([0.5, 0.7, 0.6], up, 1, full=True)[1] == pytest.approx(0, abs=0.05)
    assert up[1] < up[2] < up[0]
    lines = [line for line in drawing.iter("line") if line.get("class") == "whisker"]
    assert all(float(line.get("y1")) > y > float(line.get("y2")) for line, (_, y) in zip(lines, dots, strict=True))


def run(job, model, scores, experts=("a", "b"), base=None, **config):
    """In memory: primary metric of each task."""
    document = {
        "report": {task: {"accuracy": score} for task, score in scores.items()},
        "primary": dict.fromkeys(scores, "accuracy"),
        "references": {"base": {task: {"accuracy": s} for task, s in (base or {}).items()}, "experts": {}},
        "standard_errors": {},
        "provenance": {"config": {"model": model, "modelpool": {"experts": dict.fromkeys(experts, "x")}, **config}},
    }
    return Run(Path(str(job)), document)


def board_of(runs):
    ranked = sorted(runs, key=lambda r: -sum(m["accuracy"] for m in r.document["report"].values()))
    entries = [
        Entry(
            label=str(one.directory),
            directory=one.directory,
            headline=Measured(sum(m["accuracy"] for m in one.document["report"].values())),
            tasks={task: Measured(m["accuracy"]) for task, m in one.document["report"].items()},
            others={},
        )
        for one in ranked
    ]
    tasks = dict.fromkeys(ranked[0].tasks, "accuracy")
    return Leaderboard("mean.accuracy", True, tasks, (), tuple(entries), (), (), ())


def test_a_panel_for_each_number_that_was_swept():
    runs = [
        run(f"{d} {s}", {"_target_": "x.Ties", "density": d, "scaling": s, "sign": "sum"}, {"a": d + s}, seed=0)
        for d in (0.1, 0.5)
        for s in (1.0, 2.0)
    ]
    runs += [run(9, {"_target_": "x.Average"}, {"a": 0.1}), run(10, {"_target_": "x.Dare", "scaling": 3}, {"a": 0.2})]
    panels = {panel.parameter: panel for panel in sweep_panels(board_of(runs), runs)}
    assert panels.keys() == {"density", "scaling"}
    assert panels["density"].method == "Ties"
    assert [line.label for line in panels["density"].lines] == ["scaling=2.0", "scaling=1.0"], "the best line first"
    assert [(x, m.value) for x, m in panels["scaling"].lines[0].points] == [(1.0, 1.5), (2.0, 2.5)]


def test_words_switches_and_seeds_are_no_curves():
    models = [{"_target_": "T", "sign": "sum"}, {"_target_": "T", "sign": "max"}]
    models += [{"_target_": "U", "on": True}, {"_target_": "U", "on": False}]
    models += [{"_target_": "V", "seed": 1}, {"_target_": "V", "seed": 2}]
    runs = [run(job, model, {"a": job}) for job, model in enumerate(models)]
    assert sweep_panels(board_of(runs), runs) == []


def test_an_expert_alone_against_the_base():
    base = {"a": 0.5, "b": 0.4}
    runs = [
        run(0, {"_target_": "fusion_eval.merging.Expert", "name": "a"}, {"a": 0.9, "b": 0.3}, base=base),
        run(1, {"_target_": "fusion_eval.merging.Expert", "name": "b"}, {"a": 0.45, "b": 0.4}, base=base),
    ]
    (matrix,) = interference(board_of(runs), runs)
    assert matrix.experts == ("a", "b")
    assert matrix.changes["a"] == pytest.approx((0.4, -0.05))
    assert matrix.changes["b"] == pytest.approx((-0.1, 0.0))


@pytest.mark.parametrize("by_weight", [True, False])
def test_an_expert_left_out(by_weight):
    def without(job, name, scores):
        model = {"_target_": "x.Ties", "scaling": 1.0, "weights": {name: 0} if by_weight and name else {}}
        return run(job, model, scores, [e for e in "ab" if by_weight or e != name])

    runs = [
        without(0, "", {"a": 0.8, "b": 0.7}),
        without(1, "a", {"a": 0.5, "b": 0.75}),
        run(3, {"_target_": "x.Ties", "scaling": 1.0, "weights": {"a": 0, "b": 0}}, {"a": 0.9, "b": 0.9}),
        run(2, {"_target_": "x.Ties", "scaling": 2.0, "weights": {"b": 0}}, {"a": 0.1, "b": 0.1}),
    ]
    (matrix,) = interference(board_of(runs), runs)
    assert matrix.experts == ("a",), "the other one was left out of another merge"
    assert matrix.changes["a"] == pytest.approx((0.3,))
    assert matrix.changes["b"] == pytest.approx((-0.05,))


def test_runs_that_isolate_no_expert_give_no_matrix():
    runs = [run(job, {"_target_": "x.Ties", "scaling": job}, {"a": job / 10}) for job in range(3)]
    assert interference(board_of(runs), runs) == []


def test_bars_of_a_column_share_a_scale():
    cells = column(
        [Measured(0.5, 0.1, 0.3, 0.7), Measured(0.9, 0.1, 0.7, 1.1), Measured(None), Measured(2.0)],
        ranked=3,
        lower=False,
    )
    assert (cells[0].start, cells[0].width, cells[0].at) == (0, 50, 50)
    assert (cells[1].start, cells[1].width) == (50, 50)
    assert cells[2].width is cells[3].width is None
    assert [cell.best for cell in cells] == [False, True, False, False], "the last is a reference"


def test_colours_are_distances_to_the_expert():
    runs = [run(0, {}, {"a": 0.8, "b": 3.0}), run(1, {}, {"a": 0.5, "b": 1.0})]
    board = board_of(runs)
    found = losses(board, {"a": 1.0, "b": 4.0})
    assert found == {"a": pytest.approx([0.2 / 0.75, 0.5 / 0.75]), "b": pytest.approx([1 / 3, 1.0])}
    assert losses(board, {"a": 0.4})["a"][0] < 0, "better than the expert"
    assert losses(board, {})["b"][0] == 0, "the best stands in"


def trio(base, expert, merged, **columns):
    index = np.arange(len(base)) * 10
    own = {
        name: {"index": index, "score": np.array(s)}
        for name, s in zip(("base", "expert", "merged"), (base, expert, merged), strict=True)
    }
    own["merged"] |= columns
    return Trio(own)


def test_what_was_lost_comes_first_the_surest_mistakes_on_top():
    found = changed_samples(
        {
            "t": trio(
                [True, True, False, False, True],
                [True, True, True, False, True],
                [True, False, False, True, False],
                confidence=np.array([0.9, 0.6, 0.8, 0.99, 0.7]),
            )
        }
    )
    assert [change.index for change in found] == [20, 40, 10, 30]
    assert found[-1].what == "gained: only the merged model right"
    assert found[0].answers == ("False", "True", "False")


def test_what_any_task_lost_comes_before_what_was_kept():
    tasks = {"a": trio([0, 0], [1, 1], [1, 1]), "b": trio([0, 0], [1, 1], [1, 0])}
    assert [(change.task, change.index) for change in changed_samples(tasks)] == [
        ("b", 10),
        ("a", 0),
        ("a", 10),
        ("b", 0),
    ]


def test_each_task_has_its_share_of_the_samples():
    rng = np.random.default_rng(0)
    tasks = {name: trio(*(rng.random((3, 100)) < 0.5)) for name in "abc"}
    found = changed_samples(tasks, most=30)
    assert [sum(change.task == name for change in found) for name in "abc"] == [10, 10, 10]
    assert count_changed(tasks) > 150
    assert changed_samples({}) == []


def test_scores_that_are_not_right_or_wrong():
    found = changed_samples({"t": trio([0.1, 0.2, 0.3], [0.9, 0.5, 0.3], [0.5, 0.6, 0.3])})
    assert [(change.index, change.answers[2]) for change in found] == [(0, "0.5"), (10, "0.6")]
    assert found[0].what == "-0.4 against the expert, +0.4 against the base"


def test_of_a_loss_more_is_lost():
    own = {name: {"index": np.arange(2), "score": np.array(s)} for name, s in ROLES}
    found = changed_samples({"t": Trio(own, higher_is_better=False)})
    assert [change.index for change in found] == [1, 0], "the second sample's loss grew"


def test_long_answers_are_cut_and_still_right():
    text = np.array(["x" * 5000])
    columns = {"index": np.arange(1), "target": text, "prediction": text}
    own = {name: {**columns, "score": np.array([name != "base"])} for name in ("base", "expert", "merged")}
    (change,) = changed_samples({"t": Trio(own)})
    assert len(change.target) == len(change.answers[2]) < 200
    assert change.right == (False, True, True)


def test_classes_that_lost_most():
    expert, merged = [1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 1, 1]
    found = losing_classes({"t": trio([0] * 6, expert, merged, target=np.array([7, 7, 7, 3, 5, 5]))})
    assert [(name, flips.lost) for name, flips in found["t"]] == [(7, 2), (3, 1)]
    assert losing_classes({"t": trio([0], [1], [0], target=np.array(["cat"]))}) == {}
