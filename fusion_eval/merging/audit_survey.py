"""The audit's one pass: base and experts are read tensor by tensor, and what is judged of them is kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion_eval.errors import CheckpointError
from fusion_eval.merging.state_dict import StateDict, distinct_names, identity_of
from fusion_eval.merging.stream import is_finite

__all__ = ["Form", "Survey", "TensorFacts", "survey"]

_ELEMENTS_AT_ONCE = 2**15  # of every model, in float64: they stay in the cache while all pairs are multiplied


@dataclass(frozen=True)
class Form:
    """What a tensor is in one model: models merge where the forms fit.

    Attributes:
        shape: Its sizes.
        dtype: As stored.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def kind(self) -> str:
        """One of "complex", "floating-point" and "integer"; a boolean or quantised tensor is an integer one."""
        if self.dtype.is_complex:
            return "complex"
        return "floating-point" if self.dtype.is_floating_point else "integer"

    def fits(self, other: Form) -> bool:
        """Whether the two can be merged into one tensor."""
        return self.shape == other.shape and self.kind == other.kind


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class TensorFacts:
    """One tensor of the base and what the experts hold under its name.

    Attributes:
        base: What it is in the base.
        experts: What it is in each expert that has it.
        changed: The experts whose values differ from the base's, of those where the two fit.
        not_finite: The models where it holds NaN or Inf: experts by their names, None is the base.
        products: Shape `(1 + experts, 1 + experts)`, float64: the inner products of the base (row 0) and the task
            vectors, in the order of `Survey.experts`. NaN where there is no such product: the tensor is absent, does
            not fit, is no floating-point one, or is not finite.
    """

    base: Form
    experts: Mapping[str, Form]
    changed: frozenset[str]
    not_finite: frozenset[str | None]
    products: NDArray[np.float64]

    def equals(self, expert: str) -> bool:
        """Whether the expert has this tensor just as it is in the base."""
        return expert in self.experts and self.experts[expert].fits(self.base) and expert not in self.changed


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over the checkpoints finds. A few kilobytes a tensor, so it can be kept and judged again.

    Attributes:
        experts: Names of the experts that could be read, sorted.
        unreadable: Names of the others to the reason.
        tensors: Facts of every distinct tensor of the base, in its order.
        tied: Further names of these tensors to the first.
        names: Expert to the names of its tensors.
        untied: Expert to the names that are tied in the base and differ in it.
        twins: Pairs of experts that are equal in every tensor of the base.
    """

    experts: tuple[str, ...]
    unreadable: Mapping[str, str]
    tensors: Mapping[str, TensorFacts]
    tied: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]
    untied: Mapping[str, tuple[str, ...]]
    twins: frozenset[tuple[str, str]]


def survey(base: StateDict, experts: Mapping[str, StateDict]) -> Survey:
    """Read every tensor of all models once. Holds one tensor of each at a time where state dicts are read lazily.

    The survey of the last files is kept: the jobs of a sweep share it.

    Args:
        base: The pretrained weights.
        experts: Expert name to its weights; a `CheckpointError` on asking for one is recorded, and the others are read.
    """
    read: dict[str, StateDict] = {}
    unreadable: dict[str, str] = {}
    for key in sorted(experts):
        try:
            read[key] = experts[key]
        except CheckpointError as error:
            unreadable[key] = str(error)
    identities = [identity_of(model) for model in (base, *read.values())]
    if None in identities:
        return _read(base, read, unreadable)
    subject = (tuple(identities), tuple(base), tuple(read), tuple(unreadable.items()))
    if subject not in _last:
        _last.clear()
        _last[subject] = _read(base, read, unreadable)
    return _last[subject]


_last: dict[Hashable, Survey] = {}


@torch.no_grad()
def _read(base: StateDict, experts: Mapping[str, StateDict], unreadable: Mapping[str, str]) -> Survey:
    names = {key: tuple(expert) for key, expert in experts.items()}
    has = {key: frozenset(listed) for key, listed in names.items()}
    first_of = distinct_names(base)
    tied = {name: first for name, first in first_of.items() if name != first}

    tensors: dict[str, TensorFacts] = {}
    twins = set(combinations(experts, 2))
    for name in dict.fromkeys(first_of.values()):
        theirs = {key: expert[name] for key, expert in experts.items() if name in has[key]}
        tensors[name] = _compare(base[name], theirs, tuple(experts))
        twins = {(a, b) for a, b in twins if a in theirs and b in theirs and _equal(theirs[a], theirs[b])}
        del theirs  # before the next ones are read
    untied = {
        key: tuple(
            name
            for name, first in tied.items()
            if {name, first} <= has[key] and not _equal(expert[name], expert[first])
        )
        for key, expert in experts.items()
    }
    return Survey(tuple(experts), unreadable, tensors, tied, names, untied, frozenset(twins))


def _compare(tensor: Tensor, theirs: Mapping[str, Tensor], order: Sequence[str]) -> TensorFacts:
    base, forms = _form(tensor), {key: _form(one) for key, one in theirs.items()}
    row_of = {key: 1 + order.index(key) for key, form in forms.items() if form.fits(base)}
    products = np.full((1 + len(order), 1 + len(order)), np.nan)
    if base.kind == "floating-point":
        rows = [0, *row_of.values()]
        products[np.ix_(rows, rows)] = _products([tensor, *(theirs[key] for key in row_of)])
        changed = {key for key, row in row_of.items() if products[row, row] != 0}
    else:
        changed = {key for key in row_of if not _equal(theirs[key], tensor)}
    if np.isfinite(products).all():  # then so is what was multiplied
        not_finite: set[str | None] = set()
    else:
        models: list[tuple[str | None, Tensor]] = [(None, tensor), *theirs.items()]
        not_finite = {key for key, one in models if one.is_floating_point() and not is_finite(one)}
    products[~np.isfinite(products)] = np.nan
    return TensorFacts(base, forms, frozenset(changed), frozenset(not_finite), products)


def _form(tensor: Tensor) -> Form:
    return Form(tuple(tensor.shape), tensor.dtype)


def _products(models: Sequence[Tensor]) -> NDArray[np.float64]:
    """Inner products of the first tensor and the differences of the others from it, in float64 throughout."""
    flat = [tensor.reshape(-1) for tensor in models]
    size = flat[0].numel()
    rows = torch.empty(len(flat), min(size, _ELEMENTS_AT_ONCE), dtype=torch.float64)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for start in range(0, size, _ELEMENTS_AT_ONCE):
        part = rows[:, : size - start]
        for row, vector in zip(part, flat, strict=True):
            row.copy_(vector[start : start + _ELEMENTS_AT_ONCE])
        part[1:] -= part[0]
        total += part @ part.T
    return total.numpy()


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) if one.dtype == other.dtype else torch.equal(one.double(), other.double())
