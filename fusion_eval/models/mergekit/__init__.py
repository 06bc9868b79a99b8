"""mergekit's recipes, read and merged by the methods of this package."""

from fusion_eval.models.mergekit.method import MergekitRecipe

__all__ = ["MergekitRecipe"]
