"""The report in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_eval.report.rows import AGGREGATE_HEADER, aggregate_rows, failure_lines, task_header, task_rows

if TYPE_CHECKING:
    from rich.table import Table

    from fusion_eval.report.aggregates import Aggregates
    from fusion_eval.report.record import References, Report

__all__ = ["print_report", "results_table"]


def results_table(report: Report, references: References, aggregates: Aggregates) -> Table:
    """Lay out a report for `rich.print`: a table of the tasks, one of the aggregates, then errors and warnings.

    Args:
        report: Of the model.
        references: Of its experts.
        aggregates: Of the report.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    tasks = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(task_header(report)):
        tasks.add_column(Text(name), justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in task_rows(report, references, aggregates):
        tasks.add_row(*map(Text, row.cells), style="red" if row.failed else None)

    page = Table.grid()
    page.add_row(tasks)
    if rows := aggregate_rows(report, aggregates):
        summary = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in AGGREGATE_HEADER:
            summary.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
        for cells in rows:
            summary.add_row(*map(Text, cells))
        page.add_row(summary)
    for line in failure_lines(report):
        page.add_row(Text(line, style="red"))
    for warning in aggregates.warnings:
        page.add_row(Text(f"note: {warning}", style="yellow"))
    return page


def print_report(report: Report, references: References, aggregates: Aggregates) -> None:
    """Print the table on standard output."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 80)  # on a narrower terminal lines wrap, which loses no digit and no name
    console.print(results_table(report, references, aggregates))
