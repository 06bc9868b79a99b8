"""What a recipe may say: where models are found, what is refused and how, and what parameters mean."""

import logging
import re
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fusion_eval.errors import CheckpointError, ConfigError, FusionEvalError, MergeError
from fusion_eval.merging import Average, ModelStock, Slerp, TaskArithmetic
from fusion_eval.models import ModelPool
from fusion_eval.models.mergekit import MergekitRecipe
from fusion_eval.models.mergekit.layers import places
from fusion_eval.models.mergekit.methods import METHODS
from fusion_eval.models.mergekit.parameters import Setting, read_parameters
from fusion_eval.models.mergekit.recipe import Slice

LINEAR = (
    "{merge_method: linear, models: [{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: 3}}]}"
)


def written(method, *models, base_model="base", **parameters):
    """The text of a recipe; a model is a name, or a pair of a name and its own parameters."""
    entries = [{"model": one} if isinstance(one, str) else {"model": one[0], "parameters": one[1]} for one in models]
    recipe = {"merge_method": method, "base_model": base_model, "models": entries, "parameters": parameters}
    return yaml.safe_dump(recipe)


def model(seed, layers=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (5, 4), **{f"layers.{i}.mlp.weight": (4, 4) for i in range(layers)}, "norm.weight": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def base():
    return model(0)


@pytest.fixture
def experts():
    return {"one": model(1), "two": model(2), "three": model(3)}


@pytest.fixture
def recipe(tmp_path):
    """`recipe(text)`: the method that reads a file with this text."""

    def write(text, **options):
        (tmp_path / "recipe.yml").write_text(text)
        return MergekitRecipe(str(tmp_path / "recipe.yml"), **options)

    return write


def test_a_model_is_an_expert_or_the_base_or_a_path(recipe, base, experts, tmp_path):
    save_file(experts.pop("two"), tmp_path / "two.safetensors")
    text = written("slerp", str(tmp_path / "two.safetensors"), t=0.3)
    expected = Slerp("two", t=0.3)(base, {"two": model(2)})
    torch.testing.assert_close(recipe(text)(base, experts), expected, rtol=0, atol=0)
    renamed = {"base": experts["one"], str(tmp_path / "two.safetensors"): experts["three"]}
    expected = Slerp("end", "start", t=0.3)(base, {"start": experts["one"], "end": experts["three"]})
    torch.testing.assert_close(recipe(text)(base, renamed), expected, rtol=0, atol=0)


def test_a_model_that_is_nowhere(recipe, base, experts):
    text = LINEAR.replace("one", "user/one-7b")
    with pytest.raises(
        ConfigError, match=r"recipe.yml: models\[0\].model: 'user/one-7b' is no expert of the pool, nor a path"
    ):
        recipe(text)(base, experts)
    with pytest.raises(ConfigError, match=r"did you mean 'three'\? Known: base, one, three, two"):
        recipe(LINEAR.replace("one", "tree"))(base, experts)


def test_models_that_do_not_fit(recipe, base, experts, tmp_path):
    with pytest.raises(MergeError, match="expert 'one' does not fit the base: 1 missing"):
        recipe(LINEAR)(base, experts | {"one": model(1, layers=1)})
    save_file(model(1, layers=3), tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors: the tensors do not fit"):
        recipe(LINEAR.replace("model: one", f"model: '{tmp_path}/one.safetensors'"))(base, experts)


def test_through_a_pool(recipe, tmp_path):
    def network():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    for name in ("base", "one", "two"):
        save_file(network().state_dict(), tmp_path / f"{name}.safetensors")
    experts = {name: str(tmp_path / f"{name}.safetensors") for name in ("one", "two")}
    pool = ModelPool(partial(network), str(tmp_path / "base.safetensors"), experts)
    merged = pool.merge(recipe(LINEAR)).backbone.state_dict()
    expected = pool.merge(Average(weights={"two": 3.0})).backbone.state_dict()
    torch.testing.assert_close(merged, expected)


def test_tensors_of_all_forms(recipe):
    shared = torch.randn(3)
    base = {"a": shared, "b": shared, "scale": torch.tensor(2.0), "none": torch.zeros(0, 3), "steps": torch.tensor(7)}
    expert = base | {"a": shared + 1, "b": shared + 1, "scale": torch.tensor(3.0), "steps": torch.tensor(9)}
    expert["b"] = expert["a"]
    for method in ("ties", "dare_ties", "della", "breadcrumbs", "sce", "multislerp"):
        merged = recipe(written(method, "one", weight=1, density=1))(base, {"one": expert})
        assert list(merged) == list(base)
        torch.testing.assert_close(merged, expert | {"steps": base["steps"]})
        assert merged["a"] is merged["b"]
    for method in ("dare_linear", "della_linear", "ties", "breadcrumbs"):
        merged = recipe(written(method, "one", weight=1, density=0.6))(base, {"one": expert})
        assert merged["scale"] in (2.0, 3.0)


def test_half_precision_is_computed_in_float32_and_rounded_once(recipe, base, experts):
    half = {name: {key: tensor.bfloat16() for key, tensor in one.items()} for name, one in experts.items()}
    merged = recipe(LINEAR)({name: tensor.bfloat16() for name, tensor in base.items()}, half)
    for name, tensor in merged.items():
        exact = (half["one"][name].double() + 3 * half["two"][name].double()) / 4
        assert torch.equal(tensor, exact.bfloat16())


def test_nan_is_refused(recipe, base, experts):
    for method in ("linear", "ties", "dare_linear", "della", "breadcrumbs"):
        broken = experts["two"] | {"norm.weight": torch.tensor([1.0, float("nan"), 2.0, 3.0])}
        text = written(method, "one", "two", weight=1, density=0.7)
        with pytest.raises(MergeError, match=r"'norm\.weight' holds NaN or Inf: it already is so in expert 'two'"):
            recipe(text)(base, experts | {"two": broken})


@pytest.mark.parametrize("density", [0, -1])
def test_a_density_of_0_drops_an_expert_from_the_sum_and_not_from_the_divisor(recipe, base, experts, density):
    text = written("dare_linear", ("one", {"weight": 1}), ("two", {"weight": 3, "density": density}), normalize=True)
    expected = TaskArithmetic(0.25)(base, {"one": experts["one"]})
    torch.testing.assert_close(recipe(text)(base, experts), expected)


def test_breadcrumbs_take_fewer_outliers_where_density_and_gamma_are_more_than_1(recipe):
    base, expert = {"w": torch.zeros(100)}, {"w": torch.arange(1.0, 101)}
    for gamma, kept in ((0.05, slice(5, 95)), (0.5, slice(0, 90))):
        merged = recipe(written("breadcrumbs", "one", weight=1, density=0.9, gamma=gamma))(base, {"one": expert})["w"]
        expected = torch.zeros(100)
        expected[kept] = expert["w"][kept]
        assert int((merged != expected).sum()) <= 2 * (gamma == 0.5)  # 1 - 0.9 is less than 0.1: one outlier fewer


def test_random_drops_are_the_same_for_any_number_of_threads(recipe):
    base, expert = {"w": torch.randn(300, 700)}, {"w": torch.randn(300, 700)}
    text = written("dare_linear", "one", weight=1, density=0.3)
    threads = torch.get_num_threads()
    try:
        merged = []
        for count in (1, 2):
            torch.set_num_threads(count)
            merged.append(recipe(text)(base, {"one": expert})["w"])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*merged)


def test_della_keeps_large_values_more_often(recipe):
    vector = torch.randn(400, 50)
    text = written("della_linear", "one", weight=1, density=0.5, epsilon=0.4)
    merged = recipe(text)({"w": torch.zeros_like(vector)}, {"one": {"w": vector}})["w"]
    by_size = (merged != 0).float().gather(1, vector.abs().argsort(dim=1)).mean(dim=0)
    expected = torch.linspace(0.1, 0.9, 50)  # density - epsilon to density + epsilon, as mergekit spreads them
    assert (by_size - expected).abs().max() < 5 * (0.25 / 400) ** 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mergekit recipe, a mapping with `merge_method`, found None"),
        ("models: [", "not a readable YAML file"),
        ("models: [model: one]", "recipe.yml: merge_method: expected a name, found None"),
        ("merge_method: linear", "recipe.yml: expected either models or slices"),
        ("{merge_method: linear, modules: {text: {models: [model: one]}}}", "modules: .* is not supported"),
    ],
)
def test_a_file_that_is_no_recipe(recipe, base, experts, text, message):
    with pytest.raises(ConfigError, match=message):
        recipe(text)(base, experts)


@pytest.mark.parametrize(
    ("method", "rest", "message"),
    [
        ("lineal", "", r"merge_method: 'lineal' is not supported; did you mean 'linear'\?"),
        ("arcee_fusion", "", "merge_method: 'arcee_fusion' is not supported; Known: breadcrumbs"),
        ("linear", "normalize: true", "recipe.yml: unknown field 'normalize', which mergekit ignores"),
        ("linear", "tokenizer: {source: union, tokens: {a: {source: one}}}", "tokenizer: .* are not supported"),
        ("linear", "", "parameters.weight: model 'one' has none for tensor 'embed.weight'"),
        ("linear", "parameters: {weight: 0}", "'embed.weight': parameters.weight: .* their sum, 0"),
        ("linear", "parameters: {weights: 1}", r"parameter 'weights'; did you mean 'weight'\?"),
        ("linear", "parameters: {weight: x}", "recipe.yml: parameters.weight: expected a finite number"),
        ("linear", "parameters: {weight: true}", "parameters.weight: expected a finite number"),
        ("linear", "parameters: {weight: []}", "parameters.weight: expected a finite number"),
        ("linear", "parameters: {weight: [1, .nan]}", "parameters.weight: expected a finite number"),
        ("linear", "parameters: {normalize: 2}", "parameters.normalize: expected true or false"),
        ("linear", "parameters: [1]", "parameters: expected a mapping of parameters"),
        ("linear", "parameters: {weight: [filter: mlp]}", r"parameters.weight\[0\]: expected `value` and perhaps"),
        ("linear", "parameters: {weight: [{filter: mlp, value: 1}]}", "model 'one' has none for tensor 'embed.weight'"),
        ("slerp", "", "recipe.yml: base_model: is missing, and merge_method slerp needs one"),
        ("slerp", "base_model: base", "slerp merges exactly 1 model beside the base_model, found 2: one, two"),
        ("slerp", "base_model: one", "parameters.t: the recipe has none for tensor 'embed.weight'"),
        ("nuslerp", "base_model: one", "exactly 2 models beside the base_model, found 1: two"),
        ("model_stock", "base_model: one", "merges 2 or more models beside the base_model, found 1: two"),
        ("passthrough", "", r"models\[0\]: merge_method passthrough merges exactly 1 model, found 2"),
        ("model_stock", "base_model: base, parameters: {filter_wise: true}", "filter_wise: true.* is not supported"),
        (
            "multislerp",
            "parameters: {weight: 3, normalize_weights: false}",
            "normalize_weights: false is only supported where",
        ),
        ("della", "base_model: base, parameters: {weight: 1, density: 0.9}", "'embed.weight': Della: density 0.9"),
        (
            "multislerp",
            "parameters: {weight: [{filter: norm, value: 0}, {value: 1}]}",
            "'norm.weight': parameters.weight",
        ),
        ("sce", "base_model: base, parameters: {select_topk: [1, 0]}", "layers.1.mlp.weight': Sce: density must be"),
    ],
)
def test_what_is_refused_of_two_models(recipe, base, experts, method, rest, message):
    with pytest.raises(ConfigError, match=message):
        recipe(f"{{merge_method: {method}, models: [model: one, model: two], {rest}}}")(base, experts)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("{model: one}", "models: expected a list"),
        ("[one]", r"models\[0\]: expected a mapping with model, found 'one'"),
        ("[model: one, model: one]", r"models\[1\].model: 'one' is an earlier entry too"),
        ("[{model: one, weight: 1}]", r"models\[0\]: unknown field 'weight'"),
        ("[{model: one, parameters: {weight: {value: 1, filters: mlp}}}]", r"models\[0\].parameters.weight: expected"),
        ("[{model: {path: one}}]", r"models\[0\].model: expected a name"),
    ],
)
def test_lists_of_models_that_are_refused(recipe, base, experts, models, message):
    with pytest.raises(ConfigError, match=message):
        recipe(f"{{merge_method: linear, models: {models}}}")(base, experts)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("[sources: [model: one]]", r"slices\[0\].sources\[0\]: expected a mapping with model and layer_range"),
        ("[sources: [{model: one, layer_range: [0, x]}]]", r"sources\[0\].layer_range: expected \[first, end\]"),
        ("[sources: [{model: one, layer_range: [1, 1]}]]", r"two integers with 0 <= first < end, found \[1, 1\]"),
        (
            "[sources: [{model: one, layer_range: [0, 2]}, {model: two, layer_range: [1, 3]}]]",
            r"sources\[1\].layer_range: \[1, 3\] is not \[0, 2\], that of the first source",
        ),
        (
            "[sources: [{model: one, layer_range: [0, 2]}], sources: [{model: two, layer_range: [1, 2]}]]",
            r"slices\[1\]: its layer_range starts at 1, where 2 comes next: .* others change the architecture",
        ),
        (
            "[sources: [{model: one, layer_range: [0, 3]}]]",
            r"slices: they cover layers 0 to 3, where the base has 2 \(layers\.\*\)",
        ),
        (
            "[{sources: [{model: one, layer_range: [0, 2]}], residual_weight: 0.5}]",
            r"slices\[0\].residual_weight: is not supported",
        ),
    ],
)
def test_slices_that_are_refused(recipe, base, experts, slices, message):
    with pytest.raises(ConfigError, match=message):
        recipe(f"{{merge_method: linear, slices: {slices}, parameters: {{weight: 1}}}}")(base, experts)


def test_the_base_of_slices_is_one_of_their_sources(recipe, base, experts):
    slices = "slices: [sources: [{model: one, layer_range: [0, 2]}]], parameters: {weight: 1}"
    with pytest.raises(ConfigError, match=r"sources\[0\]: base_model 'base' is none of the sources of this slice, one"):
        recipe(f"{{merge_method: ties, base_model: base, {slices}}}")(base, experts)


def test_a_file_that_is_not_there(base, experts):
    with pytest.raises(ConfigError, match=r"nowhere\.yml: not a readable YAML file: .*No such file"):
        MergekitRecipe("nowhere.yml")(base, experts)


def test_nothing_is_merged_before_the_whole_recipe_is_checked(recipe, base, experts):
    text = written("ties", "one", weight=[{"filter": "embed", "value": 1}, {"filter": "layers", "value": 1}])
    with pytest.raises(ConfigError, match=r"has none for tensor 'norm\.weight'"):
        next(recipe(text).stream(base, experts))


def test_slices_of_a_model_with_two_lists_of_layers(recipe):
    towers = {"text.layers.0.weight": torch.ones(2), "image.layers.0.weight": torch.ones(2)}
    text = "{merge_method: passthrough, slices: [{sources: [{model: one, layer_range: [0, 1]}]}]}"
    with pytest.raises(
        ConfigError, match=r"2 lists of layers \(image\.layers\., text\.layers\.\), where slices are of one"
    ):
        recipe(text)(towers, {"one": towers})


def test_settings_without_effect_are_told(recipe, base, experts, caplog):
    text = written("model_stock", ("one", {"density": 0.5}), "two", normalize=False, int8_mask=True)
    text += "dtype: bfloat16\ntokenizer_source: union\n"
    with caplog.at_level(logging.INFO, logger="fusion_eval.models.mergekit"):
        merged = recipe(text)(base, experts)
    torch.testing.assert_close(merged, ModelStock()(base, {name: experts[name] for name in ("one", "two")}))
    told = [(record.levelname, re.sub(r".*recipe.yml: ", "", record.getMessage())) for record in caplog.records]
    assert told == [
        ("WARNING", "parameters.normalize has no effect with merge_method model_stock"),
        ("WARNING", "models[0].parameters.density has no effect with merge_method model_stock"),
        ("INFO", "dtype does not concern the merge"),
        ("INFO", "tokenizer_source does not concern the merge"),
    ]


KEYS = st.sampled_from(["model", "parameters", "weight", "t", "filter", "value", "layer_range"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["one", "base", "", "t", "1e-2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)
SETTING = st.floats(0.1, 1) | st.lists(st.floats(0.1, 1), min_size=1, max_size=3) | ANYTHING
NUMBERS = dict.fromkeys(("weight", "t"), SETTING)
PARAMETERS = st.fixed_dictionaries(NUMBERS, optional=dict.fromkeys(("density", "lambda", "normalize"), SETTING))
SOURCE = st.fixed_dictionaries({"model": st.sampled_from(["one", "two"])}, optional={"parameters": PARAMETERS})
SOURCES = st.lists(SOURCE, min_size=1, unique_by=lambda source: source["model"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(METHODS)),
    st.fixed_dictionaries({"models": SOURCES, "parameters": PARAMETERS}, optional={"base_model": st.just("base")}),
    st.dictionaries(st.sampled_from(["base_model", "models", "slices", "parameters"]), ANYTHING, max_size=1),
)
def test_whatever_a_file_says_it_is_merged_or_refused_with_a_message(recipe, method, content, garbage):
    method = recipe(yaml.safe_dump({"merge_method": method} | content | garbage))
    with suppress(FusionEvalError):
        assert method(model(0), {"one": model(1), "two": model(2)}).keys() == model(0).keys()


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_a_gradient_is_linear_between_its_values(values, depth):
    setting = read_parameters({"t": values}, "recipe.yml: parameters")["t"]
    expected = np.interp(depth * (len(values) - 1), range(len(values)), values)
    assert setting.at("layers.1.weight", depth) == pytest.approx(expected, abs=1e-12)


def test_the_first_filter_that_matches_counts_and_a_switch_holds_until_the_next():
    setting = Setting((("mlp", (True, False)), ("", (False,))))
    assert [setting.at("mlp.up", depth) for depth in (0, 0.5, 0.99, 1)] == [True, True, True, False]
    assert setting.at("attention", 0.0) is False
    assert Setting((("mlp", (1.0,)),)).at("attention", 0.0) is None


def test_depths_of_tensors():
    whole = Slice((), None, {}, None)
    names = ["embed.weight", "encoder.block.0.layer.1.w", "encoder.block.2.layer.0.w", "decoder.0.w", "h.10.w", "h.5.w"]
    found = places([*names, "head.weight"], [whole], "recipe.yml")
    assert [place.depth for place in found.values()] == [0, 0, 1, 1, 1, 0.5, 0]
