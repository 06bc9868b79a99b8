"""A job that was done before: its report, its table and its objective again, without a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from fusion_eval.answers import Answer, Known, recall
from fusion_eval.errors import ConfigError
from fusion_eval.selection import on_selection_split

__all__ = ["Told", "standing", "tell_again", "warn"]


class Told(NamedTuple):
    """What a job returned, which may be nothing."""

    objective: float | None


def tell_again(cfg: DictConfig, directory: Path) -> Told | None:
    """Do what the same job did before, from what is noted of it; nothing where it has to be done.

    Args:
        cfg: The composed config.
        directory: Of the run.
    """
    known = recall(cfg)
    if known is None or not known.touch():
        return None
    if _stands(known, directory):
        return Told(known.note.objective)
    answer = known.answer()
    return None if answer is None else Told(_write_and_print(cfg, directory, answer))


def standing(cfg: DictConfig, directory: Path) -> Told | None:
    """What a job of a sweep returned, if its directory holds what it would leave there.

    Args:
        cfg: The composed config.
        directory: Of the job.
    """
    try:
        known = recall(on_selection_split(cfg))
    except ConfigError:  # the job will tell
        return None
    return Told(known.note.objective) if known is not None and known.touch() and _stands(known, directory) else None


def warn(findings: Iterable[tuple[str, str]]) -> None:
    """Say what an audit warned of.

    Args:
        findings: Severity and message.
    """
    for severity, message in findings:
        if severity == "warning":
            print(f"fusion-eval: warning: {message}", file=sys.stderr)


def _stands(known: Known, directory: Path) -> bool:
    """Whether the report is there already; if so, say where, and that it is of now."""
    from fusion_eval.report.standing import stands

    report = directory / "report.json"
    if not stands(directory, known.note.report, known.config):
        return False
    os.utime(report)
    warn(known.note.findings)
    print(f"{report}, as it was")
    return True


def _write_and_print(cfg: DictConfig, directory: Path, known: Answer) -> float | None:
    from fusion_eval.report import ReportWriter, aggregate, objective, print_report, provenance
    from fusion_eval.report.truncation import truncation_warnings

    warn(known.findings)
    writer = ReportWriter(directory, provenance(known.config), cfg.selected_on, known.merge)
    writer.add_all(known.results)
    aggregates = aggregate(writer.report, known.references, seed=cfg.seed)
    warnings = [message for _, message in known.findings] + truncation_warnings(known.results)
    writer.finish(known.references, aggregates, warnings, "complete")
    print_report(writer.report, known.references, aggregates)
    print(directory / "report.json")
    return objective(writer.report, aggregates, cfg.objective)
