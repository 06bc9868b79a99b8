"""Samples that are decoded and preprocessed once, and then read as they are."""

from fusion_eval.data.prepared.cache import DataCache

__all__ = ["DataCache"]
