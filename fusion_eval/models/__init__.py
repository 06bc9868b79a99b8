"""Models: checkpoints read from disk, heads, and the pool a merge is made from."""

from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.heads import LinearHead
from fusion_eval.models.merged import MergedModel
from fusion_eval.models.mergekit import MergekitRecipe
from fusion_eval.models.pool import ModelPool
from fusion_eval.models.premerged import Checkpoint

__all__ = [
    "Checkpoint",
    "LinearHead",
    "MergedModel",
    "MergekitRecipe",
    "ModelPool",
    "fit_state_dict",
    "load_state_dict",
]
