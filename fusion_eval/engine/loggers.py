"""Lightning's loggers (CSV, TensorBoard, Weights & Biases, MLflow) hear of a finished evaluation, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from fusion_eval.report import Aggregates, Report

__all__ = ["log_run"]


def log_run(
    loggers: Sequence[Logger], config: Mapping[str, Any], report: Report, aggregates: Aggregates, complete: bool
) -> None:
    """Log the configuration as hyper-parameters, and all numbers of the report: `<task>/<metric>`, `mean/<metric>`, ...

    The Trainer does not log itself: it would log base and experts under the same names as the merged model, and
    nothing of what comes from the result store.

    Args:
        loggers: Each is finished afterwards; the next job of a sweep brings its own.
        config: Resolved.
        report: Of the model under test.
        aggregates: Of the report.
        complete: Whether nothing failed.
    """
    numbers = {f"{task}/{name}": value for task, metrics in report.items() for name, value in metrics.items()}
    for group, named in aggregates.groups.items():
        numbers |= {f"{group}/{name}": entry.value for name, entry in named.items()}
    for logger in loggers:
        logger.log_hyperparams(dict(config))
        if numbers:
            logger.log_metrics(numbers, step=0)
        logger.finalize("success" if complete else "failed")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(not complete))  # else the next job goes on with this run
