"""Merging methods: state dicts in, one state dict out. Nothing here knows of Hydra, Lightning or tasks.

Example:
    >>> import torch
    >>> base = {"weight": torch.zeros(3)}
    >>> mnist, svhn = {"weight": torch.tensor([3.0, 1.0, 2.0])}, {"weight": torch.tensor([1.0, -3.0, 0.0])}
    >>> Average()(base, {"mnist": mnist, "svhn": svhn})["weight"]
    tensor([ 2., -1.,  1.])
    >>> TaskArithmetic(scaling=0.3)(base, {"mnist": mnist, "svhn": svhn})["weight"]
    tensor([ 1.2000, -0.6000,  0.6000])
    >>> Ties(density=1.0)(base, {"mnist": mnist, "svhn": svhn})["weight"]
    tensor([ 2., -3.,  2.])
"""

from fusion_eval.merging.average import Average
from fusion_eval.merging.method import MergingMethod, StateDict
from fusion_eval.merging.reference import Base, Expert
from fusion_eval.merging.task_arithmetic import TaskArithmetic
from fusion_eval.merging.ties import Ties

__all__ = ["Average", "Base", "Expert", "MergingMethod", "StateDict", "TaskArithmetic", "Ties"]
