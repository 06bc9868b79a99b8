"""What the fine-tuned models of one base share, as transformers builds it: the part that is merged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from fusion_eval.errors import CheckpointError, ConfigError, suggest
from fusion_eval.models.hub import local_path

__all__ = ["Backbone", "read_config", "transformers_or_error", "with_stored_names"]


@dataclass(frozen=True)
class Backbone:
    """Builds what the fine-tuned classifiers of one base share: their architecture without its last layers.

    In its state dict the tensors have the names that `save_pretrained` gives them, without the prefix ("vit.",
    "transformer.") that they have in a checkpoint of the whole classifier and that loading takes off. Of the checkpoint
    only `config.json` is read. Any modality will do: the backbone takes what the classifier's own `forward` takes.

    Attributes:
        path: A directory with a `config.json`, or an id on the hub (`owner/name`, or `owner/name@revision`).
        auto_class: The auto class of transformers whose backbone is meant: "AutoModelForImageClassification",
            "AutoModelForSequenceClassification", ... Some models have parts that their classifiers lack (the pooler of
            `ViTModel`); "AutoModel" takes the model with all of its parts.

    Raises:
        ConfigError: `auto_class` is none of transformers.

    Example:
        >>> Backbone("gpt2", "AutoModelForSequenceClassification").path
        'gpt2'
    """

    path: str
    auto_class: str

    def __post_init__(self) -> None:
        if not self.auto_class.startswith("AutoModel"):
            raise ConfigError(
                f"Backbone: auto_class={self.auto_class!r}; give one such as AutoModelForImageClassification"
            )

    def __call__(self) -> nn.Module:
        """Build it, in float32, with random weights.

        Returns:
            What `transformers.AutoModel` would build, as a rule; it returns an output with `last_hidden_state`.

        Raises:
            CheckpointError: the config cannot be had, or transformers has no such model for it.
            ConfigError: transformers has no such auto class.
        """
        transformers = transformers_or_error()
        auto = getattr(transformers, self.auto_class, None)
        if auto is None:
            known = [name for name in dir(transformers) if name.startswith("AutoModel")]
            raise ConfigError(f"Backbone: auto_class: no {self.auto_class!r}{suggest(self.auto_class, known)}")
        config = read_config(self.path)
        try:
            model = auto.from_config(config, dtype=torch.float32)
        except ValueError as error:  # the message lists a hundred known models
            raise CheckpointError(
                f"{self.path}: transformers has no {self.auto_class} for model_type {config.model_type!r}"
            ) from error
        backbone: Any = with_stored_names(model.base_model)
        if hasattr(backbone, "_shift_right"):
            # Under a key of its own for the reason that "stored names" has one.
            backbone._forward_pre_hooks["decoder inputs"] = _shift_inputs
            backbone._forward_pre_hooks_with_kwargs["decoder inputs"] = True
        return backbone  # type: ignore[no-any-return]


def with_stored_names(backbone: Any) -> nn.Module:
    """Let the state dict have the names of files: transformers 5 has others in memory (ViT, DINOv2).

    Args:
        backbone: a transformers model.

    Returns:
        The same model; where its names differ, saving and loading its state dict translate them.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5 they are the same
        return backbone  # type: ignore[no-any-return]
    held = backbone.state_dict()
    stored = {id(tensor): name for name, tensor in revert_weight_conversion(backbone, dict(held)).items()}
    if not all(id(tensor) in stored for tensor in held.values()):
        name = type(backbone).__name__
        raise CheckpointError(
            f"{name}: transformers keeps its weights in another shape than files do, so it cannot be merged"
        )
    renamed = {name: stored[id(tensor)] for name, tensor in held.items() if stored[id(tensor)] != name}
    if renamed:
        # Registered in public, hooks would be numbered through the process, and equal models would not look equal.
        backbone._state_dict_hooks["stored names"] = partial(_rename, renamed)
        in_memory = {new: old for old, new in renamed.items()}
        backbone._load_state_dict_pre_hooks["stored names"] = partial(_rename, in_memory, None)
    return backbone  # type: ignore[no-any-return]


def _shift_inputs(
    backbone: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Where the decoder is given nothing, give it the inputs shifted right: T5's classifiers do, T5 itself does not."""
    if kwargs.keys() & {"decoder_input_ids", "decoder_inputs_embeds", "encoder_outputs"} or "input_ids" not in kwargs:
        return args, kwargs
    return args, {**kwargs, "decoder_input_ids": backbone._shift_right(kwargs["input_ids"])}


def _rename(
    names: dict[str, str], module: nn.Module | None, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    """Rename the tensors of a module in a state dict, in place and in their order."""
    items = list(state_dict.items())
    state_dict.clear()
    for name, tensor in items:
        own = name.removeprefix(prefix) if name.startswith(prefix) else None
        state_dict[prefix + names[own] if own in names else name] = tensor


def transformers_or_error() -> Any:
    """The package, imported.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError('models of transformers need an extra: pip install "fusion-eval[hf]"') from error
    return transformers


def read_config(path: str) -> Any:
    """The transformers config of a checkpoint.

    Args:
        path: a directory or hub id, read as `Backbone` does.

    Raises:
        CheckpointError: the config cannot be had, or transformers does not know its `model_type`.
    """
    directory = local_path(path)
    try:
        config = transformers_or_error().AutoConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: config.json cannot be read: {error}") from error
    config.name_or_path = ""  # where it lies does not decide what the model does
    return config
