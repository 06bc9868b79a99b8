"""A mergekit recipe as it lies on disk: read, checked, and in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion_eval.errors import ConfigError, suggest
from fusion_eval.models.mergekit.parameters import Parameters, read_parameters

__all__ = ["Recipe", "Slice", "Source", "read_recipe"]

_OF_THE_OUTPUT = ("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template")
_FIELDS = ("merge_method", "base_model", "models", "slices", "parameters", *_OF_THE_OUTPUT)


@dataclass(frozen=True)
class Source:
    """A model that goes into a slice.

    Attributes:
        model: As the recipe names it.
        parameters: Those it has of its own.
        where: The field of the recipe, for messages.
    """

    model: str
    parameters: Parameters
    where: str


@dataclass(frozen=True)
class Slice:
    """Some consecutive layers of the merged model.

    Attributes:
        sources: The models they are merged from, the base model included where it takes part.
        base: The base model, as the recipe names it, if it has one.
        parameters: What holds for all sources that do not say otherwise.
        layers: First layer, and the one after the last; None is all layers of whatever model it is.
    """

    sources: tuple[Source, ...]
    base: str | None
    parameters: Parameters
    layers: tuple[int, int] | None


@dataclass(frozen=True)
class Recipe:
    """A recipe of one merge of whole models.

    Attributes:
        file: Where it was read from.
        method: Its `merge_method`, known or not.
        slices: From the first layer to the last; `models:` are one slice of all layers.
        parameters: What holds wherever slices and sources do not say otherwise.
        ignored: Fields that are there and do not concern the merge.
    """

    file: str
    method: str
    slices: tuple[Slice, ...]
    parameters: Parameters
    ignored: tuple[str, ...]


def read_recipe(file: str | Path) -> Recipe:
    """Read the YAML of one merge.

    Raises:
        ConfigError: it cannot be read, is no recipe, or asks for more than merging whole models layer by layer; the
            message names the file and the field.
    """
    path = Path(file).expanduser()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeError) as error:
        raise ConfigError(f"{file}: not a readable YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mergekit recipe, a mapping with `merge_method`, found {content!r}")
    _check_fields(content, str(file))
    method = _text(content.get("merge_method"), f"{file}: merge_method")
    base = None if content.get("base_model") is None else _text(content["base_model"], f"{file}: base_model")
    return Recipe(
        file=str(file),
        method=method,
        slices=_read_slices(content, base, str(file)),
        parameters=read_parameters(content.get("parameters"), f"{file}: parameters"),
        ignored=tuple(field for field in _OF_THE_OUTPUT if content.get(field) is not None),
    )


def _check_fields(content: Mapping[Any, Any], file: str) -> None:
    if content.get("modules"):
        raise ConfigError(f"{file}: modules: a recipe for each part of a model is not supported; use models")
    for field in content:
        if field not in (*_FIELDS, "modules"):
            raise ConfigError(f"{file}: unknown field {field!r}, which mergekit ignores{suggest(str(field), _FIELDS)}")
    tokenizer = content.get("tokenizer")
    if isinstance(tokenizer, dict) and (tokenizer.get("tokens") or tokenizer.get("pad_to_multiple_of")):
        raise ConfigError(f"{file}: tokenizer: embeddings of single tokens, and padding, are not supported")
    if bool(content.get("models")) == bool(content.get("slices")):
        raise ConfigError(f"{file}: expected either models or slices, a list with at least one entry")


def _read_slices(content: Mapping[str, Any], base: str | None, file: str) -> tuple[Slice, ...]:
    if content.get("models"):
        sources = _sources(content["models"], f"{file}: models", ())
        if base is not None and base not in [source.model for source in sources]:
            sources = (*sources, Source(base, {}, f"{file}: base_model"))
        return (Slice(sources, base, {}, None),)
    slices = [
        _slice(item, base, f"{file}: slices[{place}]") for place, item in _entries(content["slices"], f"{file}: slices")
    ]
    end = 0
    for place, part in enumerate(slices):
        assert part.layers is not None
        if part.layers[0] != end:
            raise ConfigError(
                f"{file}: slices[{place}]: its layer_range starts at {part.layers[0]}, where {end} comes next: only "
                "slices that make up a whole model, each layer once and in order, can be merged; others change the "
                "architecture"
            )
        end = part.layers[1]
    return tuple(slices)


def _slice(content: Any, base: str | None, where: str) -> Slice:
    _require_keys(content, ("sources",), ("base_model", "parameters", "residual_weight"), where)
    if content.get("residual_weight") is not None:
        raise ConfigError(f"{where}.residual_weight: is not supported")
    own_base = content.get("base_model")
    sources = _sources(content["sources"], f"{where}.sources", ("layer_range",))
    ranges = [
        _layer_range(item["layer_range"], f"{source.where}.layer_range")
        for item, source in zip(content["sources"], sources, strict=True)
    ]
    for source, layers in zip(sources, ranges, strict=True):
        if layers != ranges[0]:
            raise ConfigError(
                f"{source.where}.layer_range: {list(layers)} is not {list(ranges[0])}, that of the first source: "
                "layers at different depths cannot be merged with each other"
            )
    return Slice(
        sources=sources,
        base=base if own_base is None else _text(own_base, f"{where}.base_model"),
        parameters=read_parameters(content.get("parameters"), f"{where}.parameters"),
        layers=ranges[0],
    )


def _sources(content: Any, where: str, also: tuple[str, ...]) -> tuple[Source, ...]:
    sources: dict[str, Source] = {}
    for place, item in _entries(content, where):
        field = f"{where}[{place}]"
        _require_keys(item, ("model", *also), ("parameters",), field)
        model = _text(item["model"], f"{field}.model")
        if model in sources:
            raise ConfigError(f"{field}.model: {model!r} is an earlier entry too; every model is named once")
        sources[model] = Source(model, read_parameters(item.get("parameters"), f"{field}.parameters"), field)
    return tuple(sources.values())


def _layer_range(content: Any, where: str) -> tuple[int, int]:
    match content:
        case [int(first), int(end)] if 0 <= first < end:
            return first, end
    raise ConfigError(f"{where}: expected [first, end], two integers with 0 <= first < end, found {content!r}")


def _entries(content: Any, where: str) -> list[tuple[int, Any]]:
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{where}: expected a list with at least one entry, found {content!r}")
    return list(enumerate(content))


def _require_keys(content: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    known = (*required, *optional)
    if not isinstance(content, dict) or not all(key in content for key in required):
        raise ConfigError(f"{where}: expected a mapping with {' and '.join(required)}, found {content!r}")
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown field {key!r}{suggest(str(key), known)}")


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str) or not content:
        raise ConfigError(f"{where}: expected a name, found {content!r}")
    return content
