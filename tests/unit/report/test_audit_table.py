"""The audit on a screen: nothing is lost on a narrow one, and names are not taken for markup."""

import io

import pytest
import torch
from rich.console import Console

from fusion_eval.merging.audit import audit
from fusion_eval.report.audit_table import AUDIT_HEADER, audit_rows, audit_table, audit_verdict, print_audit


def shown(result, paths=None, width=100, colour=None):
    console = Console(file=io.StringIO(), width=width, force_terminal=colour is not None, color_system=colour)
    console.print(audit_table(result, paths))
    return console.file.getvalue()


@pytest.fixture
def base():
    return {"weight": torch.eye(20), "bias": torch.ones(20)}


@pytest.fixture
def mixed(base):
    """An expert that is fine, one that is the base, one that cannot be merged."""
    tuned = {"weight": torch.eye(20) * 1.5, "bias": torch.ones(20)}
    return audit(base, {"tuned": tuned, "[red]same": dict(base), "bro|ken": {"weight": torch.eye(20) / 0}})


def test_rows_hold_what_was_measured(mixed):
    rows = audit_rows(mixed)
    assert all(len(row) == len(AUDIT_HEADER) for row in rows)
    assert rows == [
        ("base", "420", "float32", "-", "-", "-", "-"),
        ("[red]same", "420", "float32", "0 of 2", "0", "1.000", "-"),
        ("bro|ken", "400", "float32", "1 of 1", "0", "-", "-"),
        ("tuned", "420", "float32", "1 of 2", "0.354", "1.000", "-"),
    ]


def test_the_nearest_expert_is_the_one_with_the_largest_cosine(base):
    def moved(*bias):
        return {**base, "bias": base["bias"] + torch.tensor([*bias, *[0.0] * (20 - len(bias))])}

    result = audit(base, {"a": moved(1, 0), "b": moved(1, 1), "c": moved(-1, 0), "d": moved(-1, -1)})
    assert [row[-1] for row in audit_rows(result)[1:]] == ["0.707 b", "0.707 a", "0.707 d", "0.707 c"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_all_findings_are_shown_at_any_width(mixed, width):
    text = "".join(shown(mixed, {"base": "/some/where/base.pt", "tuned": "[bold]a.pt"}, width).split())
    for finding in mixed.findings:
        assert f"{finding.severity}:{finding.message}".replace(" ", "") in text
    assert "base:/some/where/base.pt" in text
    assert "tuned:[bold]a.pt" in text
    assert audit_verdict(mixed).replace(" ", "") in text


def test_errors_come_first_then_the_rest_then_the_verdict(mixed):
    lines = [line.strip() for line in shown(mixed).splitlines()]
    kinds = [line.split(":")[0] for line in lines if line.startswith(("error", "warning", "note"))]
    assert kinds == ["error", "error", "warning"]
    assert [line for line in lines if line][-1] == "these models cannot be merged: 2 errors"


def test_severities_have_colours(mixed):
    lines = shown(mixed, colour="standard").splitlines()
    assert "\x1b[31m" in next(line for line in lines if "error: " in line)
    assert "\x1b[33m" in next(line for line in lines if "warning: " in line)


@pytest.mark.parametrize(
    ("experts", "verdict"),
    [
        ({}, "these models cannot be merged: 1 error"),
        ({"a": 1.5}, "1 expert can be merged"),
        ({"a": 1.5, "b": 1.2}, "2 experts can be merged"),
        ({"a": 1.5, "b": 1.5, "c": 1.0}, "3 experts can be merged; look at 2 warnings"),
    ],
)
def test_the_verdict(base, experts, verdict):
    models = {name: {**base, "weight": factor * base["weight"]} for name, factor in experts.items()}
    assert audit_verdict(audit(base, models)) == verdict


def test_it_is_printed_on_standard_output(mixed, capsys):
    print_audit(mixed)
    out, err = capsys.readouterr()
    assert "cannot be merged: 2 errors" in out
    assert err == ""
