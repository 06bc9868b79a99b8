"""What the audit finds wrong, doubtful or worth knowing: one check a function, all errors at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from fusion_eval.merging.audit_statistics import BaseStatistics, ExpertStatistics, cosines_to_base
from fusion_eval.merging.audit_survey import Survey
from fusion_eval.merging.stream import Integers

__all__ = ["Finding", "Severity", "check_models", "check_structure", "check_tensors"]

Severity = Literal["error", "warning", "note"]

_NAMED = 5
_UNRELATED = 0.1  # cosine of a weight matrix and the base's; see `_check_ancestry`
_OUTLIER = 5.0  # lengths of the other experts' task vectors
_STATISTICS = re.compile(r"(?:.*\.)?running_(?:mean|var)")
_COUNTER = re.compile(r"(?:.*\.)?num_batches_tracked")


@dataclass(frozen=True)
class Finding:
    """One thing that the audit has to say.

    Attributes:
        severity: An "error" cannot be merged, or not to anything finite; a "warning" can, and the result is likely not
            what was meant; a "note" tells what is done with a tensor that is no plain matrix of floats.
        check: Which check: "keys", "shapes", "finite", "ancestry", ...
        message: A sentence that names the expert and the first few tensors.
        expert: The expert it is about; None where it is the base or several.
        tensors: All tensors it is about.
    """

    severity: Severity
    check: str
    message: str
    expert: str | None = None
    tensors: tuple[str, ...] = ()


def check_structure(survey: Survey) -> Iterator[Finding]:
    """Errors: what makes a merge impossible."""
    if not survey.experts and not survey.unreadable:
        yield Finding("error", "experts", "there is no expert to merge: give at least one")
    for key, reason in survey.unreadable.items():
        yield Finding("error", "unreadable", f"expert {key!r} cannot be read: {reason}", key)
    if found := _of_kind(survey, "complex"):
        yield Finding("error", "complex", f"only real tensors can be merged; complex: {_few(found)}", None, found)
    broken = tuple(name for name, facts in survey.tensors.items() if None in facts.not_finite)
    if broken:
        yield Finding("error", "finite", f"the base holds NaN or Inf in {_few(broken)}", None, broken)
    for key in survey.experts:
        yield from _check_fit(survey, key)


def _check_fit(survey: Survey, key: str) -> Iterator[Finding]:
    names, present = frozenset(survey.names[key]), {}
    for name, facts in survey.tensors.items():
        if key in facts.experts:
            present[name] = (facts.base, facts.experts[key])
    missing = tuple(name for name in (*survey.tensors, *survey.tied) if name not in names)
    extra = tuple(name for name in survey.names[key] if name not in survey.tensors and name not in survey.tied)
    shapes = {
        name: f"{name} is {theirs.shape}, not {base.shape}"
        for name, (base, theirs) in present.items()
        if theirs.shape != base.shape
    }
    kinds = {
        name: f"{name} is {theirs.dtype}, not {base.dtype}"
        for name, (base, theirs) in present.items()
        if theirs.kind != base.kind
    }
    broken = tuple(name for name, facts in survey.tensors.items() if key in facts.not_finite)
    untied = survey.untied[key]
    expert = f"expert {key!r}"
    if missing:
        yield Finding("error", "keys", f"{expert} lacks {_few(missing)}", key, missing)
    if extra:
        yield Finding("error", "keys", f"{expert} has what the base lacks: {_few(extra)}", key, extra)
    if shapes:
        yield Finding("error", "shapes", f"{expert} has other shapes: {_few(shapes.values())}", key, tuple(shapes))
    if kinds:
        yield Finding(
            "error", "kinds", f"{expert} holds numbers of another kind: {_few(kinds.values())}", key, tuple(kinds)
        )
    if untied:
        pairs = [f"{name} is not {survey.tied[name]}" for name in untied]
        text = f"{expert} unties weights that are one in the base, and the merge keeps one: {_few(pairs)}"
        yield Finding("error", "untied", text, key, untied)
    if broken:
        yield Finding("error", "finite", f"{expert} holds NaN or Inf in {_few(broken)}", key, broken)


def check_models(survey: Survey, base: BaseStatistics, experts: Mapping[str, ExpertStatistics]) -> Iterator[Finding]:
    """Warnings about whole experts, and a note on their precision."""
    for key in experts:
        if all(facts.equals(key) for facts in survey.tensors.values()):
            yield Finding("warning", "identical", f"expert {key!r} is the base: every tensor is equal", key)
    for one, other in sorted(survey.twins):
        if experts[one].changed:
            yield Finding("warning", "identical", f"experts {one!r} and {other!r} are equal in every tensor")
    yield from _check_ancestry(survey, experts)
    yield from _check_lengths(experts)

    models = {"the base": base.dtypes, **{f"expert {key!r}": expert.dtypes for key, expert in experts.items()}}
    if len(set(models.values())) > 1:
        stored = "; ".join(
            f"{'/'.join(dtypes) or 'none'} in {_few([model for model, its in models.items() if its == dtypes])}"
            for dtypes in dict.fromkeys(models.values())
        )
        text = f"dtypes differ ({stored}): merged in float32, or float64 where a tensor is, and rounded once"
        yield Finding("note", "dtypes", text)
    elif base.dtypes not in {("float32",), ("float64",), ()}:
        yield Finding("note", "dtypes", f"all is {'/'.join(base.dtypes)}: merged in float32, and rounded once")


def _check_ancestry(survey: Survey, experts: Mapping[str, ExpertStatistics]) -> Iterator[Finding]:
    """Experts that were not fine-tuned from this base, or not in all tensors (a head that was initialised anew).

    Weight matrices of networks that were initialised apart, or whose units were permuted, have a cosine of about 0:
    within 0.04 on the embedded architecture and between the layers of one network. Fine-tuning keeps it above 0.8,
    and above 0.3 even with a learning rate that ruins the model. A tenth lies between.
    """
    for key, expert in experts.items():
        cosines = cosines_to_base(survey, key)
        unrelated = tuple(name for name, cosine in cosines.items() if cosine < _UNRELATED)
        if _is_unrelated(expert):
            text = (
                f"expert {key!r} was probably not fine-tuned from this base: {len(unrelated)} of its {len(cosines)} "
                f"weight matrices have nothing in common with the base's (median cosine {expert.cosine_to_base:.2f})"
            )
            yield Finding("warning", "ancestry", text, key, unrelated)
        elif unrelated:
            text = (
                f"expert {key!r} has weights that are not fine-tuned ones of the base (a new head?): {_few(unrelated)}"
            )
            yield Finding("warning", "ancestry", text, key, unrelated)


def _is_unrelated(expert: ExpertStatistics) -> bool:
    return expert.cosine_to_base is not None and expert.cosine_to_base < _UNRELATED


def _check_lengths(experts: Mapping[str, ExpertStatistics]) -> Iterator[Finding]:
    """Task vectors far longer than those they are merged with, or than the base; of those not suspected already."""
    for key, expert in experts.items():
        if _is_unrelated(expert):
            continue
        others = [one.norm for name, one in experts.items() if name != key and one.norm]
        if len(others) > 1 and expert.norm > _OUTLIER * median(others):
            factor = expert.norm / median(others)
            text = f"expert {key!r} outweighs the others: its task vector is {factor:.0f} times as long as their median"
            yield Finding("warning", "length", text, key)
        elif expert.relative_norm is not None and expert.relative_norm > 1:
            text = f"expert {key!r} moved by more than the length of the base ({expert.relative_norm:.1f} times)"
            yield Finding("warning", "length", text, key)


def check_tensors(survey: Survey, recalibrates: bool, integers: Integers) -> Iterator[Finding]:
    """Tensors that are no plain matrices of floats: what is done with them, and where that is doubtful."""
    forms = {name: facts.base for name, facts in survey.tensors.items()}
    statistics = tuple(name for name in forms if _STATISTICS.fullmatch(name))
    if statistics and not recalibrates:  # REPAIR, arXiv 2211.08403
        text = (
            "BatchNorm statistics are merged like weights, but those of a merged network are others (even a negative "
            f"variance can come out): recalibrate them with model=recalibrated; {_few(statistics)}"
        )
        yield Finding("warning", "batch norm", text, None, statistics)
    if recalibrates and not statistics:
        yield Finding("warning", "batch norm", "there is no BatchNorm to recalibrate: the merge stays as it is", None)

    counted = _of_kind(survey, "integer")
    averaged = () if integers == "base" else tuple(name for name in counted if forms[name].dtype != torch.bool)
    copied = tuple(name for name in counted if name not in averaged)
    doubtful = tuple(name for name in copied if survey.tensors[name].changed and not _COUNTER.fullmatch(name))
    if doubtful:
        where = [f"{name} (of {', '.join(sorted(survey.tensors[name].changed))})" for name in doubtful]
        text = f"integer tensors of experts differ from the base's, which are kept: {_few(where)}"
        yield Finding("warning", "integers", text, None, doubtful)
    for done, names in (("copied from the base", copied), ("averaged and rounded", averaged)):
        if names:
            yield Finding("note", "integers", f"integer tensors are {done}: {_few(names)}", None, names)

    floating = _of_kind(survey, "floating-point")
    if scalars := tuple(name for name in floating if forms[name].shape == ()):
        yield Finding("note", "scalars", f"scalars are merged like other tensors: {_few(scalars)}", None, scalars)
    if empty := tuple(name for name in floating if 0 in forms[name].shape):
        yield Finding("note", "empty", f"tensors without elements: {_few(empty)}", None, empty)
    if survey.tied:
        pairs = [f"{name} is {first}" for name, first in survey.tied.items()]
        yield Finding("note", "tied", f"tied weights are merged once: {_few(pairs)}", None, tuple(survey.tied))


def _of_kind(survey: Survey, kind: str) -> tuple[str, ...]:
    return tuple(name for name, facts in survey.tensors.items() if facts.base.kind == kind)


def _few(found: Collection[str]) -> str:
    listed = ", ".join([*found][:_NAMED])
    return f"{listed}, ... ({len(found)} in all)" if len(found) > _NAMED else listed
