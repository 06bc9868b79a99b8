"""Verification: a kind of task for fusion_eval, and the data for it, from a package of its own."""

from same_class.pairs import Pairs
from same_class.task import SameClass

__all__ = ["Pairs", "SameClass"]
