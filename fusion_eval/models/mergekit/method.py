"""A mergekit recipe as a merging method."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fusion_eval.errors import ConfigError, suggest
from fusion_eval.merging import MergingMethod, StateDict
from fusion_eval.merging.experts import read_expert
from fusion_eval.merging.hyperparameters import require_seed
from fusion_eval.merging.state_dict import floating_names, wide
from fusion_eval.merging.tensors import Merging, Tensors, merge_floating
from fusion_eval.models.mergekit.ingredients import Ingredients
from fusion_eval.models.mergekit.plan import plan, without_effect
from fusion_eval.models.mergekit.recipe import read_recipe
from fusion_eval.models.stored import open_weights

__all__ = ["MergekitRecipe"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergekitRecipe(MergingMethod):
    """The merge that a mergekit YAML describes, made by the methods of this package, one tensor at a time.

    A model is the expert of that name; or, if it is called "base" and no expert is, the base of the pool; or else a
    checkpoint at that path. Parameters are resolved as by mergekit 0.1.5: for each tensor the nearest of model, slice
    and recipe that has a value, by the filters, which are pieces of tensor names, and by the gradients, which run from
    the first layer to the last. What is in no layer (embeddings, the last norm, the head) takes a gradient's first
    value. `slices` may only make up the whole model, each layer once and in order.

    The result is mergekit's, but for what it computes otherwise:

    - `dtype` does not round the inputs: all is computed in float32 at least, and rounded once, to the dtype that the
      pool asks for. `out_dtype`, `tokenizer_source`, `tokenizer` and `chat_template` do not concern the merge.
    - Dropped values (`dare_*` and `della*` with a density below 1) are others, as mergekit draws them from a global
      generator: equal in distribution only.
    - `slerp` follows the arc, and `karcher` iterates to the end, where mergekit walks straight from a cosine of 0.9995
      on, and stops after `max_iter` steps. `max_iter`, `tol`, `eps` and `int8_mask` have no effect.
    - Where a density leaves nothing of a small tensor one value stays; of equal magnitudes all stay; where both signs
      weigh the same none is elected, where mergekit takes the positive. Where the density and the `gamma` of
      `breadcrumbs*` are more than 1 together, one value more or less is taken for an outlier.
    - `model_stock` takes cosines of the shortest task vectors too, where mergekit has a least product of lengths, 1e-6.

    Attributes:
        recipe: The YAML file.
        seed: Of random drops, mergekit's `--random-seed`.

    Raises:
        ConfigError: `seed` is not an integer.
    """

    recipe: str
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self)

    def stream(self, base: StateDict, experts: Mapping[str, StateDict]) -> Tensors:
        """Merge; see `MergingMethod`. Takes a few times one tensor of every model of the recipe.

        Raises:
            ConfigError: the recipe cannot be read, or asks for what is not supported; names the file and the field.
            CheckpointError: a model that is given by its path cannot be read, or does not fit the base.
        """
        recipe = read_recipe(self.recipe)
        for field in without_effect(recipe):
            _log.warning("%s has no effect with merge_method %s", field, recipe.method)
        for field in recipe.ignored:
            _log.info("%s: %s does not concern the merge", recipe.file, field)
        steps = plan(recipe, floating_names(base), self.seed)
        models = {
            source.model: _find(source.model, f"{source.where}.model", base, experts)
            for part in recipe.slices
            for source in part.sources
        }

        def combine(name: str, tensor: Tensor, theirs: Sequence[Tensor]) -> Merging:
            if tensor.numel() == 0:
                return Merging(wide(tensor).clone())
            step, stored = steps[name], dict(zip(models, theirs, strict=True))
            start = None if step.base is None else stored[step.base]
            return Merging(step.rule(Ingredients(name, start, {model: stored[model] for model in step.models})))

        return merge_floating(base, models, combine)

    def record(self, base: StateDict, experts: Mapping[str, StateDict]) -> dict[str, Any]:
        """The recipe, as the file may change; see `MergingMethod`."""
        return {"recipe": Path(self.recipe).expanduser().read_text(encoding="utf-8")}


def _find(model: str, where: str, base: StateDict, experts: Mapping[str, StateDict]) -> StateDict:
    if model in experts:
        return read_expert(model, base, experts)
    if model == "base":
        return base
    if Path(model).expanduser().exists() or model.startswith("pkg://"):
        return open_weights(model, base)
    raise ConfigError(
        f"{where}: {model!r} is no expert of the pool, nor a path on this machine{suggest(model, [*experts, 'base'])}"
    )
