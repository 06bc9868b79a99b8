"""Dense prediction: a class, a depth or a normal for each pixel."""

from fusion_eval.tasks.dense.depth import AbsoluteDepthError, DepthEstimation, RelativeDepthError
from fusion_eval.tasks.dense.normals import AngleWithin, MeanAngle, MedianAngle, SurfaceNormals
from fusion_eval.tasks.dense.segmentation import MeanIoU, PixelAccuracy, Segmentation

__all__ = [
    "AbsoluteDepthError",
    "AngleWithin",
    "DepthEstimation",
    "MeanAngle",
    "MeanIoU",
    "MedianAngle",
    "PixelAccuracy",
    "RelativeDepthError",
    "Segmentation",
    "SurfaceNormals",
]
