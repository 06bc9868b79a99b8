"""TIES: trim the task vectors, elect a sign for every parameter, and average those that agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fusion_eval.errors import ConfigError
from fusion_eval.merging.consensus import disjoint_mean
from fusion_eval.merging.hyperparameters import require_density, require_finite
from fusion_eval.merging.ranks import at_rank_of_rows, windows
from fusion_eval.merging.state_dict import StateDict, floating_names
from fusion_eval.merging.task_vector import TaskVectorMethod
from fusion_eval.merging.tensors import Rule, widest
from fusion_eval.merging.weights import expert_weights, require_weights
from fusion_eval.threads import for_each

__all__ = ["Ties"]

_ELEMENTS_AT_ONCE = 2**16  # what is computed from them stays in the cache
_LARGE = 2**24  # elements of a tensor that would keep a thread busy when the others have done


@dataclass(frozen=True)
class Ties(TaskVectorMethod):
    """TrIm, Elect Sign & merge (arXiv 2306.01708).

    Trim: of each task vector of `d` parameters the `max(1, floor(density * d))` largest magnitudes stay, the others
    become 0; all that equal the smallest one kept stay as well. Elect: the sign of the sum of the trimmed task
    vectors, for each parameter. Merge: `base + scaling *` the mean of the values that are not 0 and have that sign.
    Where the two signs weigh exactly the same none is elected, and the base stays (the authors' code elects the sign
    that most parameters have). The authors' code keeps one parameter more.

    It reads the experts twice, first for what the smallest magnitude kept is. Beyond one tensor of every expert that
    takes the candidates for it, about 1 % of each task vector (a task vector whose magnitudes are very unlike from
    place to place has more of them, up to all).

    Attributes:
        scaling: The scaling coefficient, called lambda in the paper; 1 in the authors' example.
        density: The share of parameters kept, in (0, 1]; 0.2 in the authors' example (their K, in percent, is 20).
        trim: "global" keeps the largest of the whole task vector, as the paper does; "tensor" keeps the same share of
            every tensor, as mergekit does, so that no layer is trimmed away.
        weights: Expert name to its weight, which multiplies its trimmed task vector in the vote for a sign and in the
            mean; 1 for those not named.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    scaling: float = 1.0
    density: float = 0.2
    trim: Literal["global", "tensor"] = "global"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_finite(self, "scaling")
        require_density(self)
        require_weights(self)
        if self.trim not in ("global", "tensor"):
            raise ConfigError(f'Ties: trim must be "global" or "tensor", got {self.trim!r}')

    def rule(self, base: StateDict, experts: Mapping[str, StateDict]) -> Rule:
        """Trim, elect, merge; see `TaskVectorMethod`. Goes through the experts before."""
        weights = expert_weights(self.weights, experts)
        smallest_kept = self._smallest_kept(base, experts)

        def merge(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            vectors = stacked.sub_(tensor)
            kept = vectors.abs().ge_(smallest_kept[name].to(vectors.dtype))  # 1 or 0: 10 times as fast as to select
            return disjoint_mean(vectors.mul_(kept), weights)  # NaN stays, to be found in the result

        return merge

    def _smallest_kept(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """For each tensor that is merged, the smallest magnitude each expert keeps in it: shape `(experts, 1)`."""
        names = floating_names(base)
        found: dict[str, Tensor] = {}

        def find(group: list[str]) -> None:
            limits = _smallest_of_largest(self.density, _flat(base, group), [_flat(e, group) for e in experts.values()])
            found.update(dict.fromkeys(group, torch.tensor(limits, dtype=torch.float64).unsqueeze(1)))

        if self.trim == "global":
            find(names)
            return found
        for_each(find, [[name] for name in names if base[name].numel() < _LARGE])  # a thread takes a whole tensor
        for name in names:
            if name not in found:
                find([name])  # the threads share it
        return found


def _flat(state_dict: StateDict, names: Iterable[str]) -> list[Tensor]:
    return [state_dict[name].flatten() for name in names]


def _smallest_of_largest(share: float, base: Sequence[Tensor], experts: Sequence[Sequence[Tensor]]) -> list[float]:
    """Of the given share of largest magnitudes of each expert's task vector, the smallest. Exact, in O(d).

    Args:
        share: In (0, 1].
        base: Flat tensors.
        experts: Of each expert, the tensors of the same names.
    """
    count = sum(map(len, base))
    if not count:
        return [0.0 for _ in experts]
    dtypes = [widest(tensors) for tensors in zip(base, *experts, strict=True)]  # they are merged in

    def magnitudes(piece: tuple[int, slice]) -> Iterator[Tensor]:
        tensor, place = piece
        ours = base[tensor][place].to(dtypes[tensor])
        for expert in experts:
            yield expert[tensor][place].to(dtypes[tensor]).sub(ours).abs_()

    def sample() -> list[Tensor]:
        ours = windows(base)
        return [(windows(expert) - ours).abs_() for expert in experts]

    pieces = [
        (tensor, slice(start, start + _ELEMENTS_AT_ONCE))
        for tensor, ours in enumerate(base)
        for start in range(0, len(ours), _ELEMENTS_AT_ONCE)
    ]
    return at_rank_of_rows(magnitudes, pieces, sample, count, count - max(1, int(share * count)))
