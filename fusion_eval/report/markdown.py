"""The report as a page of Markdown, as GitHub renders it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from fusion_eval.report.rows import AGGREGATE_HEADER, aggregate_rows, failure_lines, task_header, task_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusion_eval.report.aggregates import Aggregates
    from fusion_eval.report.record import References, Report

__all__ = ["markdown_page"]


def markdown_page(
    report: Report,
    references: References,
    aggregates: Aggregates,
    *,
    status: str,
    selected_on: str | None,
    warnings: Sequence[str],
    provenance: dict[str, Any],
) -> str:
    """Write the tables of the terminal, and under them where the numbers come from.

    Args:
        report: Of the model.
        references: Of its experts.
        aggregates: Of the report.
        status: Of the run: "complete", "partial" or "failed".
        selected_on: The split that the hyper-parameters were chosen on, if any were.
        warnings: All of them, those of the aggregates included.
        provenance: As `fusion_eval.report.provenance.provenance` returns it.
    """
    sections = [
        "# Evaluation",
        _table(task_header(report), (row.cells for row in task_rows(report, references, aggregates))),
    ]
    if rows := aggregate_rows(report, aggregates):
        sections += ["## Aggregates", _table(AGGREGATE_HEADER, rows)]
    if failures := failure_lines(report):
        sections += ["## Failures", _list(failures)]
    if warnings:
        sections += ["## Warnings", _list(warnings)]
    facts = {"status": status, "hyper-parameters selected on": selected_on or "not recorded", **_facts(provenance)}
    sections += ["## Provenance", _table(("", ""), facts.items())]
    return "\n\n".join(sections) + "\n"


def _facts(provenance: dict[str, Any]) -> dict[str, str]:
    """The parts of the provenance that fit a line; the configuration is in report.json."""
    hardware = provenance["hardware"]
    checkouts = {place: state for place, state in provenance["git"].items() if state}
    return {
        "command": provenance["command"],
        "started": provenance["started"],
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items() if version),
        "git": ", ".join(
            f"{place} {state['commit']}{' (dirty)' if state['dirty'] else ''}" for place, state in checkouts.items()
        )
        or "no checkout",
        "hardware": ", ".join([hardware["platform"], hardware["cpu"], f"{hardware['cores']} cores", *hardware["gpus"]]),
    }


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {_cell(line)}" for line in lines)


def _cell(text: str) -> str:
    """One line that neither ends a cell nor starts HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
