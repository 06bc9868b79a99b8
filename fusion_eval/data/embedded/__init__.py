"""Real image tasks built at run time from data that installed packages ship."""

from fusion_eval.data.embedded.source import Embedded

__all__ = ["Embedded"]
