"""From a recipe and the names of a model's tensors to what merges each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fusion_eval.errors import ConfigError, suggest
from fusion_eval.models.mergekit.ingredients import Options, Rule
from fusion_eval.models.mergekit.layers import Place, places
from fusion_eval.models.mergekit.methods import METHODS, MergekitMethod
from fusion_eval.models.mergekit.parameters import TECHNICAL, Parameters, Value, first_set
from fusion_eval.models.mergekit.recipe import Recipe, Slice, Source

__all__ = ["Step", "plan", "without_effect"]


@dataclass(frozen=True)
class Step:
    """How one tensor is merged.

    Attributes:
        rule: What merges it.
        base: The base model, as the recipe names it, if the method takes one.
        models: The models that are merged, likewise.
    """

    rule: Rule
    base: str | None
    models: tuple[str, ...]


def plan(recipe: Recipe, names: Iterable[str], seed: int) -> dict[str, Step]:
    """Resolve the parameters of every tensor.

    Args:
        recipe: As `read_recipe` returns it.
        names: Of all tensors, in the order of the architecture.
        seed: Of random drops.

    Raises:
        ConfigError: the method is not supported; models are too few or too many for it; a value is missing, out of
            range or not supported; slices are not the whole model. The message names the file and the field.
    """
    method = _method(recipe)
    for part in recipe.slices:
        _check_models(part, recipe, method)
    found = places(names, recipe.slices, recipe.file)
    return {name: _step(name, place, recipe, method, seed) for name, place in found.items()}


def without_effect(recipe: Recipe) -> list[str]:
    """The parameters that are set where the method does not use them, nor does mergekit's: file and field of each.

    Raises:
        ConfigError: the method is not supported.
    """
    method = _method(recipe)
    own = method.own.keys() | TECHNICAL
    used = method.shared.keys() | own
    unused = [f"parameters.{name}" for name in recipe.parameters if name not in used]
    for part in recipe.slices:
        unused += [f"slices.parameters.{name}" for name in part.parameters if name not in used]
        for source in part.sources:
            field = source.where.removeprefix(f"{recipe.file}: ")
            unused += [f"{field}.parameters.{name}" for name in source.parameters if name not in own]
    return [f"{recipe.file}: {field}" for field in unused]


def _method(recipe: Recipe) -> MergekitMethod:
    if recipe.method not in METHODS:
        raise ConfigError(
            f"{recipe.file}: merge_method: {recipe.method!r} is not supported{suggest(recipe.method, METHODS)}"
        )
    return METHODS[recipe.method]


def _check_models(part: Slice, recipe: Recipe, method: MergekitMethod) -> None:
    base, sources = _roles(part, method)
    if method.base == "needed" and base is None:
        raise ConfigError(f"{recipe.file}: base_model: is missing, and merge_method {recipe.method} needs one")
    listed = [source.model for source in part.sources]
    if base is not None and base not in listed:
        raise ConfigError(
            f"{part.sources[0].where}: base_model {base!r} is none of the sources of this slice, {', '.join(listed)}"
        )
    if len(sources) < method.least or (method.most is not None and len(sources) > method.most):
        wanted = f"exactly {method.least}" if method.most == method.least else f"{method.least} or more"
        raise ConfigError(
            f"{part.sources[0].where}: merge_method {recipe.method} merges {wanted} "
            f"model{'' if method.least == 1 else 's'}{'' if method.base == 'a model' else ' beside the base_model'}, "
            f"found {len(sources)}: {', '.join(source.model for source in sources) or 'none'}"
        )


def _roles(part: Slice, method: MergekitMethod) -> tuple[str | None, tuple[Source, ...]]:
    """The base model, if there is one and the method takes one, and the models it merges."""
    if method.base == "a model" or part.base is None:
        return None, part.sources
    return part.base, tuple(source for source in part.sources if source.model != part.base)


def _step(name: str, place: Place, recipe: Recipe, method: MergekitMethod, seed: int) -> Step:
    base, sources = _roles(place.part, method)
    around = (place.part.parameters, recipe.parameters)

    def resolve(defaults: Mapping[str, Value | None], where: tuple[Parameters, ...], of: str) -> dict[str, Value]:
        values = {key: first_set(key, where, name, place.depth) for key in defaults}
        resolved = {key: defaults[key] if value is None else value for key, value in values.items()}
        for key, value in resolved.items():
            if value is None:
                raise ConfigError(
                    f"{recipe.file}: parameters.{key}: {of} has none for tensor {name!r}, and merge_method "
                    f"{recipe.method} needs one"
                )
        return {key: value for key, value in resolved.items() if value is not None}

    options = Options(
        shared=resolve(method.shared, around, "the recipe"),
        own={one.model: resolve(method.own, (one.parameters, *around), f"model {one.model!r}") for one in sources},
        seed=seed,
    )
    try:
        return Step(method.prepare(options), base, tuple(options.own))
    except ConfigError as error:
        raise ConfigError(f"{recipe.file}: tensor {name!r}: {error}") from error
