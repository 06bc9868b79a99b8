"""Kinds of tasks, one file a kind. A task is a value: data, how a model is run on it, and metrics."""

from fusion_eval.tasks.calibration import Calibration
from fusion_eval.tasks.causal import (
    BitsPerByte,
    ChoiceAccuracy,
    Generation,
    GenerationMatch,
    LanguageModelling,
    MultipleChoice,
    Perplexity,
)
from fusion_eval.tasks.class_f1 import ClassF1
from fusion_eval.tasks.classification import Classification
from fusion_eval.tasks.dense import (
    AbsoluteDepthError,
    AngleWithin,
    DepthEstimation,
    MeanAngle,
    MeanIoU,
    MedianAngle,
    PixelAccuracy,
    RelativeDepthError,
    Segmentation,
    SurfaceNormals,
)
from fusion_eval.tasks.metrics import BalancedAccuracy, CalibrationError, CrossEntropy, TopKAccuracy
from fusion_eval.tasks.multi_label import MultiLabel
from fusion_eval.tasks.preference import Preference, PreferenceAccuracy, PreferenceLoss, PreferenceMargin
from fusion_eval.tasks.ranking import DiscountedGainAt, RecallAt, ReciprocalRankAt
from fusion_eval.tasks.regression import PearsonCorrelation, Regression, SpearmanCorrelation
from fusion_eval.tasks.retrieval import Retrieval
from fusion_eval.tasks.similarity import SentenceSimilarity
from fusion_eval.tasks.task import Head, MetricFactory, Prediction, Task
from fusion_eval.tasks.text_to_text import LabelGeneration, LabelScoring, NumberGeneration

__all__ = [
    "AbsoluteDepthError",
    "AngleWithin",
    "BalancedAccuracy",
    "BitsPerByte",
    "Calibration",
    "CalibrationError",
    "ChoiceAccuracy",
    "ClassF1",
    "Classification",
    "CrossEntropy",
    "DepthEstimation",
    "DiscountedGainAt",
    "Generation",
    "GenerationMatch",
    "Head",
    "LabelGeneration",
    "LabelScoring",
    "LanguageModelling",
    "MeanAngle",
    "MeanIoU",
    "MedianAngle",
    "MetricFactory",
    "MultiLabel",
    "MultipleChoice",
    "NumberGeneration",
    "PearsonCorrelation",
    "Perplexity",
    "PixelAccuracy",
    "Prediction",
    "Preference",
    "PreferenceAccuracy",
    "PreferenceLoss",
    "PreferenceMargin",
    "RecallAt",
    "ReciprocalRankAt",
    "Regression",
    "RelativeDepthError",
    "Retrieval",
    "Segmentation",
    "SentenceSimilarity",
    "SpearmanCorrelation",
    "SurfaceNormals",
    "Task",
    "TopKAccuracy",
]
