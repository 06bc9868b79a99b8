"""TALL masks: which parameters of the summed task vectors serve which task, and which serve several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fusion_eval.merging.experts import read_expert, read_experts
from fusion_eval.merging.hyperparameters import require_count, require_finite, require_not_negative
from fusion_eval.merging.method import MergingMethod, PerTaskMethod
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.task_arithmetic import TaskArithmetic
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, Tensors, merge_tensors

__all__ = ["ConsensusTaskArithmetic", "TallMask"]


@dataclass(frozen=True)
class ConsensusTaskArithmetic(TaskVectorMethod):
    """Task arithmetic without the parameters that serve few tasks (Consensus Merging, arXiv 2405.07813).

    The TALL mask of a task holds the parameters where its expert is as near to the base plus all task vectors as to
    the base: `mask_t = |expert_t - base| >= selectivity * |base + sum - expert_t|`, where `sum` is that of the task
    vectors (the authors' code has `>`). Those in the masks of fewer than `agreement` tasks, "catastrophic" (none) and
    "selfish" ones (one), stay the base's; the others become `base + scaling * sum`. With fewer experts than `agreement`
    nothing changes.

    Attributes:
        scaling: The scaling coefficient, called alpha in the paper, which chooses it on validation data.
        agreement: How many masks a parameter must be in, 2 in the authors' example; 1 removes catastrophic
            parameters only.
        selectivity: What makes a mask small, called lambda in the paper, which chooses it for each task on validation
            data, from 0.2 to 0.6, where here it is one for all; 0 is plain task arithmetic.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 0.3
    agreement: int = 2
    selectivity: float = 0.4

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_count(self, "agreement")
        require_not_negative(self, "selectivity")

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """What serves enough tasks; see `TaskVectorMethod`."""

        def merge(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            wanted = _masks(vectors, self.selectivity).sum(dim=0) >= self.agreement
            return wanted * vectors.sum(dim=0)  # NaN times False is NaN, to be found

        return merge


@dataclass(frozen=True)
class TallMask(PerTaskMethod):
    """Each expert's model, recovered from the sum of all task vectors by its TALL mask (arXiv 2405.07813).

    For the task of an expert `base + mask_t * sum`, with the mask and the sum of `ConsensusTaskArithmetic`; for any
    other task `base + sum`. It tells how much of every expert is still there in the sum: the mask, one bit a
    parameter, is all that a task adds to one model.

    Attributes:
        selectivity: What makes a mask small, called lambda in the paper, which chooses it for each task on
            validation data, from 0.2 to 0.6; 0 is the base plus the sum.

    Raises:
        ConfigError: `selectivity` is not a finite number from 0 on.
    """

    selectivity: float = 0.4

    def __post_init__(self) -> None:
        require_not_negative(self, "selectivity")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """All task vectors; see `MergingMethod`."""
        return TaskArithmetic(1.0).stream(base, experts)

    def variant(self, expert: str) -> MergingMethod:
        """What the mask of this expert leaves of them."""
        return _Masked(expert, self.selectivity)


@dataclass(frozen=True)
class _Masked(MergingMethod):
    expert: str
    selectivity: float

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        read = read_experts(base, experts)
        read_expert(self.expert, base, read)  # for its message
        own = list(read).index(self.expert)

        def recover(_name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked - tensor
            return tensor + _masks(vectors, self.selectivity)[own] * vectors.sum(dim=0)

        return merge_tensors(base, read, recover)


def _masks(vectors: Tensor, selectivity: float) -> Tensor:
    """Where each task vector is what the sum of all is about: shape `(experts, ...)` as given, bool."""
    return vectors.abs() >= selectivity * (vectors.sum(dim=0) - vectors).abs()
