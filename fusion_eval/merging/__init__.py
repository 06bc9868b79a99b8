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

from fusion_eval.merging.adamerging import AdaMerging
from fusion_eval.merging.audit import Audit
from fusion_eval.merging.average import Average
from fusion_eval.merging.breadcrumbs import Breadcrumbs
from fusion_eval.merging.calibration import Calibration, MethodWithData
from fusion_eval.merging.dare import Dare
from fusion_eval.merging.della import Della
from fusion_eval.merging.emr import EmrMerging
from fusion_eval.merging.fisher import Fisher
from fusion_eval.merging.isotropic import IsoC, IsoCTS
from fusion_eval.merging.knots import Knots
from fusion_eval.merging.lines import Lines
from fusion_eval.merging.method import MergingMethod, PerTaskMethod
from fusion_eval.merging.model_stock import ModelStock
from fusion_eval.merging.pcb import PcbMerging
from fusion_eval.merging.recalibration import Recalibrated
from fusion_eval.merging.reference import Base, Expert
from fusion_eval.merging.regmean import RegMean
from fusion_eval.merging.sce import Sce
from fusion_eval.merging.slerp import NuSlerp, Slerp
from fusion_eval.merging.spherical_mean import KarcherMean, MultiSlerp
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.tall_masks import ConsensusTaskArithmetic, TallMask
from fusion_eval.merging.task_arithmetic import TaskArithmetic
from fusion_eval.merging.task_singular_vectors import TsvMerge
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.ties import Ties
from fusion_eval.merging.wise_ft import WiseFt
from fusion_eval.merging.wudi import WudiMerging

__all__ = [
    "AdaMerging",
    "Audit",
    "Average",
    "Base",
    "Breadcrumbs",
    "Calibration",
    "ConsensusTaskArithmetic",
    "Dare",
    "Della",
    "EmrMerging",
    "Expert",
    "Fisher",
    "IsoC",
    "IsoCTS",
    "KarcherMean",
    "Knots",
    "Lines",
    "MergingMethod",
    "MethodWithData",
    "ModelStock",
    "MultiSlerp",
    "NuSlerp",
    "PcbMerging",
    "PerTaskMethod",
    "Recalibrated",
    "RegMean",
    "Sce",
    "Slerp",
    "StateDict",
    "TallMask",
    "TaskArithmetic",
    "TaskVectorMethod",
    "Ties",
    "TsvMerge",
    "WiseFt",
    "WudiMerging",
]
