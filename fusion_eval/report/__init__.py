"""Results, statistics over them, and the files and tables they become. Knows nothing of Lightning or tasks."""

from fusion_eval.report.aggregates import Aggregates, aggregate
from fusion_eval.report.objective import check_objective, objective
from fusion_eval.report.provenance import provenance
from fusion_eval.report.record import References, Report, TaskFailure, TaskResult
from fusion_eval.report.samples import read_samples
from fusion_eval.report.statistics import Estimate
from fusion_eval.report.table import print_report, results_table
from fusion_eval.report.writer import ReportWriter

__all__ = [
    "Aggregates",
    "Estimate",
    "References",
    "Report",
    "ReportWriter",
    "TaskFailure",
    "TaskResult",
    "aggregate",
    "check_objective",
    "objective",
    "print_report",
    "provenance",
    "read_samples",
    "results_table",
]
