"""The models of the NYUv2 multi-task literature: a dilated ResNet, and a decoder for each task."""

from fusion_eval.models.nyuv2.decoder import ASPPDecoder, ASPPHead
from fusion_eval.models.nyuv2.encoder import DilatedResNet

__all__ = ["ASPPDecoder", "ASPPHead", "DilatedResNet"]
