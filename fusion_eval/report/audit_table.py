"""The pre-flight audit in a terminal, and as rows for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from fusion_eval.merging.audit import Audit, ExpertStatistics

__all__ = ["AUDIT_HEADER", "audit_rows", "audit_table", "audit_verdict", "print_audit"]

AUDIT_HEADER = (
    "model",
    "parameters",
    "dtype",
    "changed tensors",
    "relative norm",
    "cosine to base",
    "nearest expert",
)

_MISSING = "-"
_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def audit_rows(audit: Audit) -> list[tuple[str, ...]]:
    """A row a model, the base first: text under each name of `AUDIT_HEADER`.

    Relative norm: the length of the task vector in units of the base's. Cosine to base: the median over the weight
    matrices. Nearest expert: the largest cosine between two task vectors, and with whom.
    """
    base = audit.base
    first = ("base", f"{base.parameters:,}", _joined(base.dtypes), *[_MISSING] * 4)
    return [first, *((name, *_cells(expert)) for name, expert in audit.experts.items())]


def audit_verdict(audit: Audit) -> str:
    """One line: whether the models can be merged.

    Example:
        >>> import torch
        >>> from fusion_eval.merging.audit import audit
        >>> audit_verdict(audit({"weight": torch.ones(2)}, {"a": {"weight": torch.ones(2)}}))
        '1 expert can be merged; look at 1 warning'
        >>> audit_verdict(audit({"weight": torch.ones(2)}, {"a": {"weight": torch.ones(3)}}))
        'these models cannot be merged: 1 error'
    """
    errors, warnings = len(audit.of("error")), len(audit.of("warning"))
    if errors:
        return f"these models cannot be merged: {_count(errors, 'error')}"
    doubts = f"; look at {_count(warnings, 'warning')}" if warnings else ""
    return f"{_count(len(audit.experts), 'expert')} can be merged{doubts}"


def audit_table(audit: Audit, paths: Mapping[str, str] | None = None) -> Table:
    """Lay out an audit for `rich.print`: a table of the models, where they are from, the findings, the verdict.

    Args:
        audit: Of the models.
        paths: Model name, "base" included, to where it was read from.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    models = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in AUDIT_HEADER:
        is_text = name in {"model", "dtype", "nearest expert"}
        heading = name.replace(" ", "\n", 1)  # all columns fit 80 characters
        models.add_column(heading, justify="left" if is_text else "right", no_wrap=name != "model", overflow="fold")
    for row in audit_rows(audit):
        models.add_row(*map(Text, row))

    page = Table.grid()
    page.add_row(models)
    for name, path in (paths or {}).items():
        page.add_row(Text(f"{name}: {path}"))
    for finding in audit.findings:
        page.add_row(Text(f"{finding.severity}: {finding.message}", style=_STYLES[finding.severity]))
    page.add_row(Text(audit_verdict(audit), style="bold"))
    return page


def print_audit(audit: Audit, paths: Mapping[str, str] | None = None) -> None:
    """Print the table on standard output; see `audit_table`."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 80)
    console.print(audit_table(audit, paths))


def _cells(expert: ExpertStatistics) -> tuple[str, ...]:
    known = {other: cosine for other, cosine in expert.cosines.items() if cosine is not None}
    nearest = max(known, key=lambda other: known[other], default=None)
    return (
        f"{expert.parameters:,}",
        _joined(expert.dtypes),
        f"{expert.changed:,} of {expert.tensors:,}",
        _MISSING if expert.relative_norm is None else f"{expert.relative_norm:.3g}",
        _MISSING if expert.cosine_to_base is None else f"{expert.cosine_to_base:.3f}",
        _MISSING if nearest is None else f"{known[nearest]:.3f} {nearest}",
    )


def _joined(dtypes: tuple[str, ...]) -> str:
    return ", ".join(dtypes) or _MISSING


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
