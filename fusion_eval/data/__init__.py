"""Where samples come from, one file a family of sources."""

from fusion_eval.data.arrays import Arrays
from fusion_eval.data.embedded import Embedded
from fusion_eval.data.folder import ImageFolder
from fusion_eval.data.huggingface import HuggingFace
from fusion_eval.data.mapstyle import MapStyle
from fusion_eval.data.source import DataSource, Samples, TensorSamples
from fusion_eval.data.table import Table
from fusion_eval.data.transform import ImageTransform

__all__ = [
    "Arrays",
    "DataSource",
    "Embedded",
    "HuggingFace",
    "ImageFolder",
    "ImageTransform",
    "MapStyle",
    "Samples",
    "Table",
    "TensorSamples",
]
