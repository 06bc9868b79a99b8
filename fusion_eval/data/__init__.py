"""Where samples come from, one file a family of sources."""

from fusion_eval.data.source import DataSource, Samples, TensorSamples

__all__ = ["DataSource", "Samples", "TensorSamples"]
