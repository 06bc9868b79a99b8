"""Fisher merging: an average in which each parameter of an expert counts as much as its predictions depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging.calibration import Calibration, MethodWithData, measured_on
from fusion_eval.merging.consensus import weigh
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.fisher_information import Labels, fisher_information
from fusion_eval.merging.hyperparameters import require_not_negative
from fusion_eval.merging.memory import process_memory
from fusion_eval.merging.state_dict import StateDict, distinct_names, named_parameters
from fusion_eval.merging.tensors import Tensors, merge_whole_tensors
from fusion_eval.merging.weights import expert_weights, require_weights
from fusion_eval.threads import one_thread

__all__ = ["Fisher"]


@dataclass(frozen=True)
class Fisher(MethodWithData):
    """Fisher-weighted averaging (arXiv 2111.09832): `sum_t w_t F_t expert_t / sum_t w_t F_t`, element by element.

    `F_t`, the diagonal of the Fisher information of expert `t`, is the mean over its task's calibration samples `x` of
    the expectation over `y` of `(d log p(y | x) / d parameter) ** 2`. Buffers have none: they get the weighted mean.

    It costs a forward pass a sample, and a backward pass a class (`labels="model"`) or a sample (`"data"`), and takes
    the memory of one model for each expert, and of two more. On the CPU it runs with one thread, so that the number of
    threads changes no bit. A sweep over `weights`, `normalize` and `floor` measures once.

    Attributes:
        calibration: The samples.
        labels: Where `y` comes from: "model" is the expectation over the expert's own predictions, as in the paper;
            "data" takes the labels, which is called the empirical Fisher information.
        weights: Expert name to its `w_t`, not negative; 1 for those not named.
        normalize: Whether each `F_t` is divided by its norm, as the authors' code does, so that an expert whose
            gradients are large on the whole does not outweigh the others everywhere.
        floor: The least that an element of `F_t` counts, after it is divided; where all of them are smaller, the result
            is the mean. The authors' code has 1e-6 before dividing and for the first expert only, which here would
            let an expert that fits its samples so well that all its gradients are small win everywhere.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    calibration: Calibration
    labels: Labels = "model"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    normalize: bool = True
    floor: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in get_args(Labels):
            raise ConfigError(f"Fisher: labels={self.labels!r}; choose one of {', '.join(get_args(Labels))}")
        require_weights(self)
        for name, weight in self.weights.items():
            if weight < 0:
                raise ConfigError(f"Fisher: weights.{name} must not be negative, got {weight!r}")
        require_not_negative(self, "floor")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`.

        Raises:
            MergeError: the weights are all 0, or the Fisher information is not finite.
        """
        read = read_experts(base, experts)
        weights = expert_weights(self.weights, read)
        if weights is not None and not weights.any():
            raise MergeError(f"Fisher: all weights are 0: {dict(self.weights)}")
        first = distinct_names(base)  # of tied names, in the order of the base; the architecture may have another
        importances = [
            {first[key]: one for key, one in self.importance(name, expert).items()} for name, expert in read.items()
        ]

        def average(name: str, _tensor: Tensor, stacked: Tensor) -> Tensor:
            shares = weigh(torch.ones_like(stacked), weights)
            if name in importances[0]:
                important = shares * torch.stack([importance[name] for importance in importances])
                shares = torch.where(important.sum(dim=0) > 0, important, shares)
            return (shares * stacked).sum(dim=0) / shares.sum(dim=0)

        return merge_whole_tensors(base, read, average)

    def importance(self, name: str, expert: StateDict) -> dict[str, Tensor]:
        """What each parameter of an expert counts: `F_t`, divided by its norm, and the floor where that is less.

        Args:
            name: Of the expert, by which its samples are known.
            expert: Its weights.

        Returns:
            Parameter names, the first of tied ones, to tensors of their shape, float32.

        Raises:
            MergeError: the Fisher information is not finite.
        """
        with one_thread():
            information = self._information(name, expert)
            norm = sum(float(one.double().square().sum()) for one in information.values()) ** 0.5
        if not norm < float("inf"):
            raise MergeError(f"the Fisher information of expert {name!r} is not finite on its calibration samples")
        scale = norm if self.normalize and norm else 1.0
        return {key: (one / scale).clamp(min=self.floor) for key, one in information.items()}

    def _information(self, name: str, expert: StateDict) -> dict[str, Tensor]:
        group = measured_on(self.calibration, {name: expert}, "fisher", self.labels)
        measured = cache(lambda: fisher_information(self.calibration, name, expert, self.labels))
        keys = list(named_parameters(self.calibration.backbone()))
        return {key: process_memory.recall(group, key, lambda: measured()[key]) for key in keys}  # noqa: B023
