"""The comparison of two runs in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from fusion_eval.report.comparison import Comparison
    from fusion_eval.report.flips import Flips
    from fusion_eval.report.significance import Difference

__all__ = ["comparison_table"]

_HEADER = ("task", "A", "B", "B - A", "95 % interval", "p", "Holm", "lost", "gained")


def comparison_table(comparison: Comparison, labels: tuple[str, str], *, classes: bool = False) -> Group:
    """Lay out a comparison for `rich.print`.

    Args:
        comparison: Of runs A and B.
        labels: Names of A and B.
        classes: Whether to list lost and gained samples of each class.
    """
    from rich.console import Group
    from rich.text import Text

    metrics = {found.metric for found in comparison.tasks.values()}
    rows = []
    for task, found in comparison.tasks.items():
        name = task if len(metrics) == 1 else f"{task} ({found.metric})"
        flips = ("-", "-") if found.flips is None else (f"{found.flips.lost:,}", f"{found.flips.gained:,}")
        adjusted = f"{_p(found.adjusted)}{'*' if found.adjusted < 0.05 else ' '}"
        numbers = (f"{found.first:.4f}", f"{found.second:.4f}", *_difference(found.difference))
        rows.append((name, *numbers, _p(found.p_value), adjusted, *flips))
    if comparison.mean is not None and len(comparison.tasks) > 1:
        rows.append(("mean", "", "", *_difference(comparison.mean), _p(comparison.mean.p_value), "", "", ""))
    tests = sorted({found.test for found in comparison.tasks.values()})
    mean = "sign flips" if "sign flips" in tests else "paired bootstrap"
    return Group(
        Text(f"A: {labels[0]}\nB: {labels[1]}\nprimary metric: {', '.join(sorted(metrics))}"),
        _table(_HEADER, rows),
        Text(f"p: {' or '.join(tests)} of a task, {mean} of the mean; *: below 0.05 when adjusted (Holm)"),
        *_patterns(comparison),
        *(_classes(task, found.classes) for task, found in comparison.tasks.items() if classes and found.classes),
        *(Text(f"left out: {line}", style="yellow") for line in comparison.left_out),
    )


def _patterns(comparison: Comparison) -> list[Table]:
    """One table of the samples of all tasks by what base, expert and merged model made of them."""
    known = {task: found.patterns for task, found in comparison.tasks.items() if found.patterns is not None}
    if not known:
        return []
    names = next(iter(known.values()))[0]
    rows = [(name, *(f"{first[name]:,} / {second[name]:,}" for first, second in known.values())) for name in names]
    return [_table(("samples with A / B", *known), rows)]


def _classes(task: str, classes: dict[int, Flips]) -> Table:
    counts = ((str(label), f.kept, f.lost, f.gained, f.never) for label, f in classes.items())
    return _table((f"{task}: class", "kept", "lost", "gained", "never"), [tuple(map(str, row)) for row in counts])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        justify: Literal["left", "right"] = "right" if index else "left"
        table.add_column(Text(name), justify=justify, no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _difference(found: Difference) -> tuple[str, str]:
    unknown = found.low is None or found.high is None
    return f"{found.value:+.4f}", "-" if unknown else f"{found.low:+.4f} to {found.high:+.4f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"
