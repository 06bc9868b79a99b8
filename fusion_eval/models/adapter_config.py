"""What `adapter_config.json` of a LoRA adapter says about the meaning of its tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fusion_eval.errors import CheckpointError

__all__ = ["AdapterConfig", "read_adapter_config"]

_Value = TypeVar("_Value", int, float)

_UNSUPPORTED = {
    "use_dora": "DoRA rescales the columns of the adapted weight",
    "use_qalora": "QA-LoRA pools the inputs",
    "use_bdlora": "BD-LoRA is block-diagonal",
    "kasa_config": "KaSA truncates the weight of the base",
    "arrow_config": "Arrow routes between adapters",
    "monteclora_config": "MonteCLoRA samples its factors",
    "velora_config": "VeLoRA is unknown here",
    "alora_invocation_tokens": "activated LoRA depends on the input",
    "layer_replication": "the adapted model has more layers than the base",
    "target_parameters": "parameters were adapted without their module",
    "trainable_token_indices": "single embedding rows were trained",
    "lora_bias": "the factor B has a bias",
}
"""Fields that, when set, give the tensors another meaning than a low-rank change of the base's weights."""

_KEEPS_THE_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that start from the base as it is; PiSSA, OLoRA and others subtract from it first."""


@dataclass(frozen=True)
class AdapterConfig:
    """The part of a LoRA configuration that the merged weight, and a trained head, depend on.

    Attributes:
        rank: Rows of every factor A and columns of every B.
        alpha: Numerator of the scaling of every product B A.
        rank_pattern: Regular expression for the end of a module's name to the rank of those modules instead.
        alpha_pattern: Likewise, for alpha.
        rank_stabilised: Whether the scaling falls with the root of the rank.
        input_first: Whether weights are `(inputs, outputs)`, as those of transformers' `Conv1D` are. PEFT stores one
            flag for all modules: that of the last one.
        base: What was adapted, as the training named it: a directory or an id on the hub; None if that is not known.
        task_type: What PEFT calls the kind of model that was adapted ("SEQ_CLS", ...); None if it was not told.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    input_first: bool
    base: str | None = None
    task_type: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank `r` of one module, named as in the model that was adapted."""
        return _first_match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What the product B A is multiplied by.

        `alpha / r` (LoRA, arXiv 2106.09685, section 4.1), or `alpha / sqrt(r)` if it is rank-stabilised (rsLoRA, arXiv
        2312.03732, section 3).

        Example:
            >>> config = AdapterConfig(8, 16, {}, {"k_proj": 4}, False, False)
            >>> config.scaling_of("layers.0.q_proj"), config.scaling_of("layers.0.k_proj")
            (2.0, 0.5)
        """
        rank = self.rank_of(module)
        return _first_match(self.alpha_pattern, module, self.alpha) / (
            math.sqrt(rank) if self.rank_stabilised else rank
        )


def read_adapter_config(file: Path) -> AdapterConfig:
    """Read `adapter_config.json`.

    Raises:
        CheckpointError: It is missing, damaged, not of a LoRA adapter, or of a variant of LoRA whose tensors mean
            something else; the message names the field.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged: no JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds a {type(config).__name__}, where the fields of an adapter are expected")
    _refuse_unsupported(config, file)
    ranks, alphas = _pattern(config, "rank_pattern", file), _pattern(config, "alpha_pattern", file)
    return AdapterConfig(
        rank=_rank(config, "r", file),
        alpha=_number(config, "lora_alpha", file),
        rank_pattern={key: _rank(ranks, key, file) for key in ranks},
        alpha_pattern={key: _number(alphas, key, file) for key in alphas},
        rank_stabilised=bool(config.get("use_rslora")),
        input_first=bool(config.get("fan_in_fan_out")),
        base=config.get("base_model_name_or_path"),
        task_type=config.get("task_type"),
    )


def _refuse_unsupported(config: Mapping[str, Any], file: Path) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{file}: peft_type is {kind!r}; only 'LORA' adapters can be read as experts")
    for field, reason in _UNSUPPORTED.items():
        if config.get(field):
            raise CheckpointError(f"{file}: {field} is set, which is not supported: {reason}")
    if (start := config.get("init_lora_weights", True)) not in _KEEPS_THE_BASE:
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}, which is not supported: training started from a changed base; "
            "let PEFT convert the adapter (`save_pretrained(path_initial_model_for_weight_conversion=...)`)"
        )


def _rank(config: Mapping[str, Any], field: str, file: Path) -> int:
    if isinstance(value := config.get(field), int) and value > 0:
        return value
    raise CheckpointError(f"{file}: {field} is {value!r}; expected a positive integer")


def _number(config: Mapping[str, Any], field: str, file: Path) -> float:
    if isinstance(value := config.get(field), int | float) and math.isfinite(value):
        return value
    raise CheckpointError(f"{file}: {field} is {value!r}; expected a finite number")


def _pattern(config: Mapping[str, Any], field: str, file: Path) -> dict[str, Any]:
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict):
        raise CheckpointError(f"{file}: {field} is {pattern!r}; expected modules and their values")
    for key in pattern:
        try:
            re.compile(key)
        except re.error as error:
            raise CheckpointError(f"{file}: {field}: {key!r} is no regular expression ({error})") from error
    return pattern


def _first_match(pattern: Mapping[str, _Value], module: str, otherwise: _Value) -> _Value:
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", module)), otherwise)
