"""Merging methods: state dicts in, one state dict out. Nothing here knows of Hydra, Lightning or tasks."""

from fusion_eval.merging.method import MergingMethod, StateDict

__all__ = ["MergingMethod", "StateDict"]
