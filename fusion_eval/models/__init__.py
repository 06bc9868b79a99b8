"""Models: checkpoints read from disk, heads, and the pool a merge is made from."""

from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.checkpoint_head import CheckpointHead
from fusion_eval.models.clip import (
    CLIPTextTower,
    OpenCLIPTextTower,
    ZeroShotHead,
    clip_vision_model,
    open_clip_vision_model,
)
from fusion_eval.models.fit import fit_state_dict
from fusion_eval.models.heads import LinearHead
from fusion_eval.models.hugging_face import Backbone
from fusion_eval.models.language_model import LanguageModel
from fusion_eval.models.merged import MergedModel
from fusion_eval.models.mergekit import MergekitRecipe
from fusion_eval.models.nyuv2 import ASPPHead, DilatedResNet
from fusion_eval.models.pool import ModelPool
from fusion_eval.models.pooling import Pooled
from fusion_eval.models.premerged import Checkpoint
from fusion_eval.models.sentence_tower import SentenceTower
from fusion_eval.models.without_layer import without_layer

__all__ = [
    "ASPPHead",
    "Backbone",
    "CLIPTextTower",
    "Checkpoint",
    "CheckpointHead",
    "DilatedResNet",
    "LanguageModel",
    "LinearHead",
    "MergedModel",
    "MergekitRecipe",
    "ModelPool",
    "OpenCLIPTextTower",
    "Pooled",
    "SentenceTower",
    "ZeroShotHead",
    "clip_vision_model",
    "fit_state_dict",
    "load_state_dict",
    "open_clip_vision_model",
    "without_layer",
]
