"""The embedded base, experts and heads (README.md here tells their protocol), and the script that trained them."""

from fusion_eval.zoo.encoder import Encoder

__all__ = ["Encoder"]
