"""AdaMerging: scaling coefficients that make the merged model sure of its predictions, learnt without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fusion_eval.errors import ConfigError, MergeError, few
from fusion_eval.merging.calibration import Batch, Calibration, MethodWithData
from fusion_eval.merging.consensus import weigh
from fusion_eval.merging.experts import read_experts
from fusion_eval.merging.hyperparameters import require_count, require_not_negative, require_share
from fusion_eval.merging.state_dict import StateDict, floating_names
from fusion_eval.merging.stream import is_finite
from fusion_eval.merging.tensors import Tensors, merge_tensors
from fusion_eval.threads import one_thread

__all__ = ["AdaMerging"]

_GRANULARITIES = ("task", "layer")


@dataclass(frozen=True)
class AdaMerging(MethodWithData):
    """Adaptive merging (arXiv 2310.02575): `base + sum_t c_t * (expert_t - base)`, with learnt `c_t`.

    Adam minimises the sum over tasks of the mean entropy of the merged model's predictions on a batch of the task's
    calibration samples, one batch of every task a step. Coefficients are clamped to [0, 1], as the authors' code does.
    The paper learns on the unlabelled test samples themselves; here they are never those that are evaluated.

    Entropy measures how sure a model is, not how right. Where the base is surer than a merge, as on most tasks of the
    embedded pool, many coefficients fall, and the accuracy with them: compare with `steps=0`.

    It takes the memory of two models and one for each expert, in float32, and a forward and a backward pass of
    `steps` batches a task; in the authors' code a batch has 2 * 16 samples. On the CPU it runs with one thread, so that
    the number of threads changes no bit.

    Attributes:
        calibration: The samples. Their labels are not used.
        granularity: "task" learns a coefficient an expert, "layer" one for every tensor of every expert. Buffers, such
            as the statistics of BatchNorm, have no gradient: with "layer" their coefficients stay at `prior`.
        prior: What every coefficient starts with.
        steps: How many steps Adam takes; 500 in the authors' code. 0 leaves the prior.
        learning_rate: That of Adam, 1e-3 in the authors' code, so that no coefficient moves by more than about 0.5
            in 500.

    Raises:
        ConfigError: a hyper-parameter is out of range.
    """

    calibration: Calibration
    granularity: Literal["task", "layer"] = "layer"
    prior: float = 0.3
    steps: int = 500
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity not in _GRANULARITIES:
            known = ", ".join(_GRANULARITIES)
            raise ConfigError(f"AdaMerging: granularity={self.granularity!r}; choose one of {known}")
        require_share(self, "prior")
        if self.steps != 0:
            require_count(self, "steps")
        require_not_negative(self, "learning_rate")

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`."""
        read = read_experts(base, experts)
        coefficients = self._learn(base, read)
        self.__dict__["_last"] = (base, experts, coefficients)  # for the record of this merge, which follows it

        def add(name: str, tensor: Tensor, stacked: Tensor) -> Tensor:
            return tensor + weigh(stacked - tensor, coefficients[name]).sum(dim=0)

        return merge_tensors(base, read, add)

    def coefficients(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, dict[str, float]]:
        """The learnt `c_t`: expert name to tensor name to coefficient. With "task", all tensors have the same."""
        learnt = {name: row.tolist() for name, row in self._learnt(base, experts).items()}
        return {
            expert: {name: row[place] for name, row in learnt.items()} for place, expert in enumerate(sorted(experts))
        }

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """Which samples were used, and what was learnt; with "task", one coefficient an expert."""
        coefficients: dict[str, Any] = self.coefficients(base, experts)
        if self.granularity == "task":
            coefficients = {expert: next(iter(of.values())) for expert, of in coefficients.items()}
        return {**super().record(base, experts), "coefficients": coefficients}

    def _learnt(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """What the last merge learnt, if it was of these; else it is learnt again."""
        last_base, last_experts, learnt = self.__dict__.get("_last", (None, None, {}))
        same = last_base is base and last_experts is experts
        return learnt if same else self._learn(base, read_experts(base, experts))

    def _learn(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Tensor]:
        """Names of distinct floating-point tensors to the coefficients of the experts, shape `(experts,)`."""
        with one_thread(), torch.inference_mode(False), torch.enable_grad():
            merged = _Merged(self.calibration.backbone(), base, experts)
            width = len(merged.names) if self.granularity == "layer" else 1
            coefficients = torch.full((len(experts), width), self.prior, device=merged.device, requires_grad=True)
            optimizer = torch.optim.Adam([coefficients], lr=self.learning_rate)
            batches = {expert: _endless(self.calibration, expert) for expert in experts}
            for _ in range(self.steps):
                merged.set_weights(coefficients.detach().clamp(0, 1).expand(-1, len(merged.names)))
                for expert, endless in batches.items():
                    logits = self.calibration.logits(expert, merged.backbone, next(endless))
                    _entropy(logits).backward()  # type: ignore[no-untyped-call]
                inside = (coefficients >= 0) & (coefficients <= 1)  # a clamped coefficient has no gradient
                coefficients.grad = merged.gradient().sum_to_size(coefficients.shape) * inside
                optimizer.step()
            learnt = coefficients.detach().clamp(0, 1).expand(-1, len(merged.names)).cpu()
        if not learnt.isfinite().all():
            raise MergeError(f"AdaMerging: the coefficients became NaN: {_cause_of_nan(merged.names, experts)}")
        return dict(zip(merged.names, learnt.mT, strict=True))


def _endless(calibration: Calibration, expert: str) -> Iterator[Batch]:
    while True:
        yield from calibration.batches(expert)


def _cause_of_nan(names: Sequence[str], experts: Mapping[str, StateDict]) -> str:
    bad = [f"{name!r} of expert {key!r}" for key in experts for name in names if not is_finite(experts[key][name])]
    return f"NaN or Inf in {few(bad)}" if bad else "a merged model's predictions are not finite"


class _Merged:
    """A backbone that is the base plus scaled task vectors, and the gradients of the coefficients that scale them.

    Args:
        backbone: Gets the weights.
        base: The pretrained weights.
        experts: As `read_experts` returns them.

    Attributes:
        backbone: As given.
        names: Of the distinct floating-point tensors, in the order of the columns of coefficients.
        device: Where the backbone is.
    """

    @torch.no_grad()
    def __init__(self, backbone: nn.Module, base: StateDict, experts: Mapping[str, StateDict]) -> None:
        backbone.load_state_dict(base)
        self.backbone = backbone
        weights = backbone.state_dict(keep_vars=True)
        self._weights = {name: weights[name] for name in floating_names(base)}
        self.names = list(self._weights)
        self.device = next(iter(self._weights.values())).device
        self._base = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._vectors = {name: self._stack(name, experts) for name in self.names}

    @torch.no_grad()
    def set_weights(self, coefficients: Tensor) -> None:
        """Merge with coefficients of shape `(experts, names)`."""
        for column, (name, weight) in enumerate(self._weights.items()):
            weight.copy_(self._base[name] + torch.tensordot(coefficients[:, column], self._vectors[name], dims=1))
            weight.grad = None

    def gradient(self) -> Tensor:
        """Of what was propagated backwards since `set_weights`, by the coefficients: shape `(experts, names)`."""
        columns = [self._column(name, weight.grad) for name, weight in self._weights.items()]
        return torch.stack(columns, dim=1)

    def _stack(self, name: str, experts: Mapping[str, StateDict]) -> Tensor:
        base = self._base[name]
        return torch.stack([expert[name].to(base) - base for expert in experts.values()])

    def _column(self, name: str, gradient: Tensor | None) -> Tensor:
        vectors = self._vectors[name].unsqueeze(-1).flatten(1)  # 0-d ones too
        return vectors.new_zeros(len(vectors)) if gradient is None else vectors @ gradient.flatten()


def _entropy(logits: Tensor) -> Tensor:
    """The mean entropy of the predictions, in nats."""
    logs = logits.log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1).mean()
