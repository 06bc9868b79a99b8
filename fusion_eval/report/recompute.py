"""Metrics of a classification, computed once more from what each sample left: with NumPy, not with torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["recompute"]

_COLUMNS = {"target", "prediction", "loss", "confidence", "rank"}

Columns = Mapping[str, npt.NDArray[Any]]


def recompute(metric: Mapping[str, Any], columns: Columns) -> float | None:
    """Compute the metric that a configuration describes.

    Args:
        metric: Its node of the configuration: `_target_` and arguments.
        columns: Of the samples, as `Classification` leaves them.

    Returns:
        None where it is not known how, or the samples are not those of a classification.

    Example:
        >>> columns = dict.fromkeys(["loss", "confidence", "rank", "prediction", "target"], np.array([0, 1, 3]))
        >>> recompute({"_target_": "fusion_eval.tasks.TopKAccuracy", "_partial_": True, "k": 2}, columns)
        0.6666666666666666
    """
    if not columns.keys() >= _COLUMNS:
        return None
    target, prediction, confidence = columns["target"], columns["prediction"], columns["confidence"]
    right = target == prediction
    settings = {key: value for key, value in metric.items() if not key.startswith("_")}
    found: Any = None
    match str(metric.get("_target_")).rpartition(".")[2]:
        case "MulticlassAccuracy" if settings == {"average": "micro"}:
            found = right.mean()
        case "CrossEntropy" if not settings:
            found = columns["loss"].mean(dtype=np.float64)
        case "TopKAccuracy" if settings.keys() == {"k"}:
            found = (columns["rank"] < settings["k"]).mean()
        case "BalancedAccuracy" if not settings:
            found = np.mean([right[target == label].mean() for label in np.unique(target)])
        case "MulticlassF1Score" if settings == {"average": "macro"}:
            found = _macro_f1(target, prediction)
        case "CalibrationError" if settings.keys() == {"n_bins", "norm"} and settings["norm"] == "l1":
            found = _calibration_error(confidence, right, settings["n_bins"])
    return None if found is None else float(found)


def _macro_f1(target: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> float:
    """Unweighted mean over the classes that are a target or a prediction."""
    scores = []
    for label in np.union1d(target, prediction):
        mine, predicted = target == label, prediction == label
        scores.append(2 * np.sum(mine & predicted) / (np.sum(mine) + np.sum(predicted)))
    return float(np.mean(scores))


def _calibration_error(confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_], bins: int) -> float:
    """How far accuracy and mean confidence are apart in bins of equal width (arXiv 1706.04599, equation 3)."""
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right) - np.bincount(bin_of, weights=confidence.astype(np.float64))
    return float(np.abs(gaps).sum() / len(right))
