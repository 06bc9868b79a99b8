"""CLIP and its kin: vision encoders to merge, and zero-shot heads made from the names of classes."""

from fusion_eval.models.clip.open_clip import OpenCLIPTextTower, open_clip_vision_model
from fusion_eval.models.clip.text_tower import CLIPTextTower, TextEncoder, TextTower
from fusion_eval.models.clip.vision_tower import clip_vision_model
from fusion_eval.models.clip.zero_shot_head import ZeroShotHead

__all__ = [
    "CLIPTextTower",
    "OpenCLIPTextTower",
    "TextEncoder",
    "TextTower",
    "ZeroShotHead",
    "clip_vision_model",
    "open_clip_vision_model",
]
