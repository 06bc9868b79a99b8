"""How far each expert is from the base and from the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from fusion_eval.merging.audit_survey import Form, Survey

__all__ = ["BaseStatistics", "ExpertStatistics", "cosines_to_base", "statistics"]

_MATRIX_ELEMENTS = 256  # cosines of unrelated vectors spread by 1 / sqrt(elements) around 0: those of fewer tell little
_ROUNDING = 1e-12  # what remains of an expert of zeros when it is computed as base plus task vector


@dataclass(frozen=True)
class BaseStatistics:
    """The size of the base.

    Attributes:
        tensors: Number of its tensors, tied ones counted once.
        parameters: Elements of the floating-point ones of them.
        dtypes: Of its floating-point tensors, as "float32".
        norm: Euclidean length of all of them as one vector.
    """

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    norm: float


@dataclass(frozen=True)
class ExpertStatistics:
    """An expert next to the base and the other experts; over the floating-point tensors that fit and are finite.

    Attributes:
        tensors: Number of tensors that the base has too, tied ones counted once.
        parameters: Elements of the floating-point ones of them.
        dtypes: Of these, as "float32".
        changed: How many of the tensors have other values than in the base.
        norm: Euclidean length of the task vector, expert minus base.
        relative_norm: The same in units of the base's; None where that is 0.
        cosine_to_base: Median, over the weight matrices, of the cosine between expert and base; see `cosines_to_base`.
            None where there is no such matrix.
        cosines: Each other expert to the cosine between the two task vectors; None where one is 0.
    """

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    changed: int
    norm: float
    relative_norm: float | None
    cosine_to_base: float | None
    cosines: Mapping[str, float | None]


def statistics(survey: Survey) -> tuple[BaseStatistics, dict[str, ExpertStatistics]]:
    """Sum up what a survey found, for the base and for each expert that could be read."""
    shape = (1 + len(survey.experts),) * 2
    total = sum((np.nan_to_num(facts.products) for facts in survey.tensors.values()), np.zeros(shape))
    norms = [math.sqrt(square) for square in np.diag(total)]
    forms = [facts.base for facts in survey.tensors.values()]
    base = BaseStatistics(len(forms), *_size(forms), norms[0])

    experts = {}
    for row, key in enumerate(survey.experts, start=1):
        to_base = cosines_to_base(survey, key)
        forms = [facts.experts[key] for facts in survey.tensors.values() if key in facts.experts]
        experts[key] = ExpertStatistics(
            len(forms),
            *_size(forms),
            changed=sum(key in facts.changed for facts in survey.tensors.values()),
            norm=norms[row],
            relative_norm=norms[row] / norms[0] if norms[0] else None,
            cosine_to_base=median(to_base.values()) if to_base else None,
            cosines={
                other: _cosine(total[row, column], norms[row], norms[column])
                for column, other in enumerate(survey.experts, start=1)
                if other != key
            },
        )
    return base, experts


def cosines_to_base(survey: Survey, expert: str) -> dict[str, float]:
    """Cosine between expert and base of every weight matrix: a tensor of two or more dimensions and 256 elements.

    Fine-tuning turns a matrix by less than a right angle, far less as a rule; two networks that were initialised apart
    hold matrices that are about orthogonal. The gains of norms, near 1 in any network, would hide that.
    """
    row = 1 + survey.experts.index(expert)
    cosines = {}
    for name, facts in survey.tensors.items():
        if len(facts.base.shape) < 2 or math.prod(facts.base.shape) < _MATRIX_ELEMENTS:
            continue
        base, cross, moved = facts.products[0, 0], facts.products[0, row], facts.products[row, row]
        square = base + 2 * cross + moved  # the expert's own squared length
        if base > 0 and square > _ROUNDING * (base + moved):
            cosines[name] = float(np.clip((base + cross) / math.sqrt(base * square), -1, 1))
    return cosines


def _cosine(product: float, one: float, other: float) -> float | None:
    return float(np.clip(product / (one * other), -1, 1)) if one and other else None


def _size(forms: Iterable[Form]) -> tuple[int, tuple[str, ...]]:
    """Elements and dtypes of the floating-point ones."""
    floating = [form for form in forms if form.kind == "floating-point"]
    return sum(math.prod(form.shape) for form in floating), tuple(sorted({_name(form.dtype) for form in floating}))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
