"""Recipes of all kinds against what mergekit, run as a user runs it, made of the same models (see tests/oracles)."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from fusion_eval.models.mergekit import MergekitRecipe
from fusion_eval.models.mergekit.methods import METHODS

FIXTURE = Path(__file__).parents[2] / "oracles" / "mergekit_recipes.safetensors"
with safe_open(FIXTURE, "pt") as _file:
    METADATA = _file.metadata()
RECIPES = json.loads(METADATA["recipes"])
SHAPES = json.loads(METADATA["shapes"])
RANDOM = {"dare_linear", "dare_linear_unscaled", "della_linear"}
EXPERTS = ("one", "two", "three")
DETERMINISTIC = [(kind, recipe) for kind, recipes in RECIPES.items() for recipe in recipes if recipe not in RANDOM]


def read(kind, model):
    """Tensor name to tensor of an input model, or of the merge of a recipe."""
    shapes = SHAPES[kind]
    with safe_open(FIXTURE, "pt") as file:
        flat = file.get_tensor(f"{kind}/{model}").split([torch.Size(shape).numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), flat, strict=True)}


@pytest.fixture
def merge(tmp_path):
    """`merge(kind, recipe)`: by us."""

    def run(kind, recipe, **options):
        (tmp_path / "recipe.yml").write_text(RECIPES[kind][recipe])
        experts = {name: read(kind, name) for name in EXPERTS}
        return MergekitRecipe(str(tmp_path / "recipe.yml"), **options)(read(kind, "base"), experts)

    return run


def test_the_oracle_covers_all_methods_there_are():
    assert METADATA["mergekit"] == "0.1.5"
    texts = [text for recipes in RECIPES.values() for text in recipes.values()]
    assert {yaml.safe_load(text)["merge_method"] for text in texts} == METHODS.keys()


@pytest.mark.parametrize(("kind", "recipe"), DETERMINISTIC)
def test_the_merge_is_mergekits(merge, kind, recipe):
    expected = read(kind, recipe)
    merged = merge(kind, recipe)
    assert list(merged) == list(expected)
    rtol = 1e-4 if recipe.startswith("slerp") else 1e-6  # mergekit walks straight from a cosine of 0.9995 on
    torch.testing.assert_close(merged, expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("recipe", ["slerp_slices", "slerp_models"])
def test_slerp_is_mergekits_to_the_last_digits_where_that_follows_the_arc_too(merge, recipe):
    names = {"slerp_slices": ("one", "three"), "slerp_models": ("one", "two")}[recipe]
    ends = [read("llama", name) for name in names]
    expected, merged = read("llama", recipe), merge("llama", recipe)
    on_the_arc = [
        name
        for name in expected
        if torch.cosine_similarity(ends[0][name].flatten(), ends[1][name].flatten(), dim=0).abs() < 0.9994
    ]
    assert len(on_the_arc) > 20
    for name in on_the_arc:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("recipe", "model", "weight", "rescaled"),
    [
        ("dare_linear", "one", 0.5, True),
        ("dare_linear_unscaled", "one", 1.0, False),
        ("della_linear", "two", 0.5, True),
    ],
)
def test_random_drops_keep_the_values_mergekit_could_have_kept(merge, recipe, model, weight, rescaled):
    """In both, what is kept of a tensor is multiplied by one factor, which restores its L1 norm, or by none."""
    base, expert, density = read("llama", "base"), read("llama", model), 0.6 if recipe.startswith("della") else 0.5
    kept = 0
    ours = merge("llama", recipe)
    for merged in (read("llama", recipe), ours):
        for name, tensor in base.items():
            vector, change = expert[name] - tensor, merged[name] - tensor
            stays = change.abs() > 1e-7
            factor = vector.abs().sum() / (vector * stays).abs().sum() if rescaled and stays.any() else 1.0
            torch.testing.assert_close(change, weight * factor * vector * stays, rtol=1e-4, atol=1e-6)
            kept += int(stays.sum()) if merged is ours else 0
    count = sum(tensor.numel() for tensor in base.values())
    assert abs(kept / count - density) < 5 * (0.25 / count) ** 0.5


def test_the_seed_decides_what_is_dropped(merge):
    first, again, other = (merge("llama", "dare_linear", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
