"""Experts that are LoRA adapters: small factors on disk, read as the weights of the whole adapted model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fusion_eval.errors import CheckpointError, few
from fusion_eval.merging.mismatch import describe_mismatch
from fusion_eval.merging.state_dict import StateDict, distinct_names, wide
from fusion_eval.models.adapter_config import AdapterConfig, read_adapter_config
from fusion_eval.models.checkpoint import load_state_dict
from fusion_eval.models.low_rank import Factors, LowRankChange, low_rank_change, square_transposed
from fusion_eval.models.prefix import splits

__all__ = ["AdaptedWeights", "is_adapter", "read_adapter", "read_stored_whole"]

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WRAPPER = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>(embedding_)?[AB])(\.\w+)??(\.weight)?")
_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class AdaptedWeights(Mapping[str, Tensor]):
    """The weights of a base with an adapter merged into it: each made when it is asked for, and not kept.

    A weight with a low-rank change is computed in float32, or in float64 if the base is, and stays so even where the
    base is in half precision: a merge rounds once, at its end. A weight that the adapter stores whole has the dtype of
    the adapter. All others are the very tensors of the base.

    Attributes:
        base: Weights of the base.
        replaced: Weights the adapter stores whole: trained biases, `modules_to_save`, embeddings.
        changes: Low-rank changes of weights of the base, or of `replaced` where it has the name.
        identity: See `merging.state_dict.identity_of`.
    """

    base: StateDict
    replaced: Mapping[str, Tensor]
    changes: Mapping[str, LowRankChange]
    identity: Hashable | None = None

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        weight = self.replaced[name] if name in self.replaced else self.base[name]
        return self.changes[name].added_to(wide(weight)) if name in self.changes else weight

    def __contains__(self, name: object) -> bool:
        return name in self.base

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def is_adapter(path: str | Path) -> bool:
    """Whether a path is a directory as PEFT saves adapters: one with an `adapter_config.json`."""
    return (Path(path).expanduser() / _CONFIG).is_file()


def read_adapter(path: str | Path, base: StateDict, identity: Hashable | None = None) -> AdaptedWeights:
    """Read a LoRA adapter that PEFT saved.

    Linear layers, transformers' `Conv1D`, convolutions without groups and embeddings may be adapted, with one rank and
    scaling or a pattern of them, rank-stabilised or not; biases and other modules may be stored whole.

    The adapted model may hold the architecture below a prefix (an adapter of `GPT2LMHeadModel`, an architecture that is
    its `transformer`), or lie below one in it. The prefix is recognised as by `fit_state_dict`: the one that matches
    most names, none if that matches as many. What lies outside of the prefix belongs to other parts of the adapted
    model (a head, another tower) and is left out; else everything the adapter stores must be in the architecture.

    Args:
        path: Directory with `adapter_config.json` and `adapter_model.safetensors` or `adapter_model.bin`.
        base: Weights the adapter was trained on, under the names of the architecture.
        identity: What tells this adapter on this base from others; see `merging.state_dict.identity_of`.

    Raises:
        CheckpointError: It cannot be read; it is no LoRA, or of a variant that changes more than weights by `B A`; it
            does not fit the base; it changes only one of two weights that are tied in the base. The message names the
            file and the field or the tensor.
    """
    directory = Path(path).expanduser()
    config = read_adapter_config(directory / _CONFIG)
    file = _weights_file(directory)
    factors, whole = _sort_out(load_state_dict(file), file)
    place = _places(factors.keys() | whole.keys(), base, file)
    inside = {name: pair for name, pair in factors.items() if name in place}
    orientation = square_transposed(inside, {name: base[there] for name, there in place.items()}, config)
    changes = {}
    for name, pair in inside.items():
        weight = base[place[name]]
        changes[place[name]] = low_rank_change(name, pair, weight, orientation, config, file)
    replaced = {place[name]: tensor for name, tensor in whole.items() if name in place}
    if mismatch := describe_mismatch(replaced, {name: base[name] for name in replaced}):
        raise CheckpointError(f"{file}: what the adapter stores whole does not fit the base: {mismatch}")
    return _with_ties(AdaptedWeights(base, replaced, changes, identity), file)


def read_stored_whole(path: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """What a LoRA adapter stores beside its factors (a trained head, biases), named as in the model that was adapted.

    Args:
        path: As for `read_adapter`.

    Raises:
        CheckpointError: It cannot be read, or is no LoRA.
    """
    directory = Path(path).expanduser()
    config, file = read_adapter_config(directory / _CONFIG), _weights_file(directory)
    return config, _sort_out(load_state_dict(file), file)[1]


def _weights_file(directory: Path) -> Path:
    file = next((directory / name for name in _WEIGHTS if (directory / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{directory}: the adapter has no weights; expected {' or '.join(_WEIGHTS)}")
    return file


def _sort_out(stored: StateDict, file: Path) -> tuple[dict[str, Factors], dict[str, Tensor]]:
    """The factors by the weight they change, and the tensors that are stored whole, named as in the adapted model."""
    sides: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    whole = {}
    for stored_name, tensor in stored.items():
        name = stored_name.removeprefix(_WRAPPER)
        if not (factor := _FACTOR.fullmatch(name)):
            whole[name.replace(".base_layer.", ".")] = tensor
        elif factor["side"] in sides[weight := f"{factor['module']}.weight"]:
            raise CheckpointError(f"{file}: {stored_name} is the second of its kind, from a second adapter")
        else:
            sides[weight][factor["side"]] = tensor
    return {weight: _pair(weight, found, file) for weight, found in sides.items()}, whole


def _pair(weight: str, found: Mapping[str, Tensor], file: Path) -> Factors:
    for kind in ("", "embedding_"):
        if found.keys() == {f"{kind}A", f"{kind}B"} and all(map(_is_matrix, found.values())):
            return Factors(found[f"{kind}A"], found[f"{kind}B"], embedding=bool(kind))
    present = ", ".join(f"lora_{side} {factor.dtype} {tuple(factor.shape)}" for side, factor in sorted(found.items()))
    raise CheckpointError(f"{file}: for {weight} there is {present}; expected floating-point matrices A and B")


def _is_matrix(factor: Tensor) -> bool:
    return factor.is_floating_point() and factor.dim() >= 2


def _places(names: Collection[str], base: StateDict, file: Path) -> dict[str, str]:
    """Name in the adapted model to name in the base, of those that lie below the prefix, if one is taken off."""
    ways = Counter((prefix, "") for name in names for prefix, rest in splits(name) if rest in base)
    ways.update(("", prefix) for name in base for prefix, rest in splits(name) if prefix and rest in names)
    best = [way for way, count in ways.items() if count == max(ways.values())]
    if not best:
        raise CheckpointError(
            f"{file}: the architecture has none of the tensors that are adapted: {few(sorted(names))}"
        )
    if len(best) > 1 and ("", "") not in best:
        prefixes = few(sorted({off or on for off, on in best}))
        raise CheckpointError(f"{file}: the adapter fits the architecture with several prefixes: {prefixes}")
    off, on = ("", "") if ("", "") in best else best[0]
    place = {name: on + name.removeprefix(off) for name in names if name.startswith(off)}
    if lacking := [name for name, there in place.items() if there not in base]:
        raise CheckpointError(
            f"{file}: the architecture lacks {len(lacking)} of the adapted tensors: {few(sorted(lacking))}"
        )
    return place


def _with_ties(weights: AdaptedWeights, file: Path) -> AdaptedWeights:
    """The same, with tied names sharing what the adapter says about the first of them that it touches.

    Raises:
        CheckpointError: The adapter makes different weights of one.
    """
    replaced, changes = dict(weights.replaced), dict(weights.changes)
    tied = defaultdict(list)
    for name, first in distinct_names(weights.base).items():
        tied[first].append(name)
    for names in tied.values():
        source = next((name for name in names if name in replaced or name in changes), None)
        if source is None or len(names) == 1:
            continue
        if not all(_equal_but_for_rounding(weights[name], weights[source]) for name in names):
            raise CheckpointError(
                f"{file}: the adapter unties {' and '.join(names)}, which are one tensor in the base; use an "
                "architecture and a base in which they are two, or train the adapter with ensure_weight_tying"
            )
        replaced, changes = _shared(replaced, names, source), _shared(changes, names, source)
    return replace(weights, replaced=replaced, changes=changes)


def _shared(parts: Mapping[str, _Part], names: Collection[str], source: str) -> dict[str, _Part]:
    others = {name: part for name, part in parts.items() if name not in names}
    return others | dict.fromkeys(names, parts[source]) if source in parts else others


def _equal_but_for_rounding(one: Tensor, other: Tensor) -> bool:
    """PEFT stores the tied change of an embedding transposed: its product may be summed in another order."""
    return torch.allclose(one.double(), other.double(), rtol=0, atol=1e-5 * float(other.abs().max()))
