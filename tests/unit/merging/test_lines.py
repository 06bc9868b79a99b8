"""LiNeS: against a literal transcription of its formula (no package has it), closed forms, and what must hold."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetModel

import fusion_eval.merging
from fusion_eval.config import build, compose
from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, Base, Expert, MergingMethod, TaskArithmetic, Ties
from fusion_eval.merging.isotropic import IsoC
from fusion_eval.merging.lines import Lines, relative_depths
from fusion_eval.merging.pcb import PcbMerging

ROOT = Path(__file__).parents[3]
EXPERTS = ("one", "two", "three")
INNER = [TaskArithmetic(1.0), Average(), Ties(), Ties(1.0, 0.5, "tensor"), IsoC(), PcbMerging()]
parametrize = pytest.mark.parametrize


def model(seed, layers=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    names = [
        "embed.weight",
        *(f"layers.{i}.{part}" for i in range(layers) for part in ("weight", "mlp.bias")),
        "norm",
    ]
    return {name: torch.randn(3, 4, generator=generator, dtype=dtype) for name in names}


def pool(seed=0, experts=3, **options):
    return model(seed, **options), {str(i): model(seed + 1 + i, **options) for i in range(experts)}


def literal_lines(base, merged, alpha, beta, blocks):
    """Section 3 of arXiv 2410.17146, its blocks found by `.i.`, all else scaled by alpha."""
    scaled = {}
    for name in base:
        block = next((i for i in range(blocks) if f".{i}." in name), None)
        scaling = alpha if block is None else alpha + beta * block / (blocks - 1)
        scaled[name] = base[name] + scaling * (merged[name] - base[name])
    return scaled


@parametrize("inner", INNER)
@parametrize(("alpha", "beta"), [(0.2, 0.7), (0.0, 1.0), (1.0, -0.5)])
def test_equals_the_formula(inner, alpha, beta):
    tensors = load_file(ROOT / "tests" / "oracles" / "merging.safetensors")
    names = [name.partition("/")[2] for name in tensors if name.startswith("base/")]
    llama = {kind: {name: tensors[f"{kind}/{name}"] for name in names} for kind in ("base", *EXPERTS)}
    for base, experts, blocks in [(llama.pop("base"), llama, 2), (*pool(), 4)]:
        expected = literal_lines(base, inner(base, experts), alpha, beta, blocks)
        torch.testing.assert_close(Lines(inner, alpha, beta)(base, experts), expected)


@parametrize("inner", INNER)
def test_alpha_makes_the_merged_task_vector_as_large_as_the_mean_one(inner):
    base, experts = pool(dtype=torch.float64)
    merged = Lines(inner, beta=0.0)(base, experts)
    mean = Average()(base, experts)
    sizes = [sum((found[name] - base[name]).abs().sum() for name in base) for found in (merged, mean)]
    torch.testing.assert_close(*sizes)


def test_alpha_of_task_arithmetic_is_one_over_the_experts():
    base, experts = pool(experts=5, dtype=torch.float64)
    torch.testing.assert_close(Lines()(base, experts), Lines(TaskArithmetic(1.0), 1 / 5, 0.5)(base, experts))
    torch.testing.assert_close(Lines(beta=0.0)(base, experts), Average()(base, experts))


def test_one_expert_edited_so_that_its_last_block_stays():
    base, experts = pool()
    merged = Lines(Expert("1"), 0.3, 0.7)(base, experts)
    torch.testing.assert_close(merged["layers.3.weight"], experts["1"]["layers.3.weight"])
    torch.testing.assert_close(
        merged["embed.weight"], torch.lerp(base["embed.weight"], experts["1"]["embed.weight"], 0.3)
    )


@parametrize("inner", [*INNER, Base(), Expert("0")])
def test_scaling_0_is_the_base_and_1_the_method(inner):
    base, experts = pool()
    nothing = Lines(inner, 0.0, 0.0)(base, experts)
    assert all(torch.equal(nothing[name], base[name]) for name in base)
    torch.testing.assert_close(Lines(inner, 1.0, 0.0)(base, experts), inner(base, experts))


def test_a_method_that_adds_nothing_gives_the_base():
    base, experts = pool()
    for merged in (Lines(Base())(base, experts), Lines()(base, {"same": base})):
        assert all(torch.equal(merged[name], base[name]) for name in base)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, unique=True), st.randoms())
def test_depths_rise_in_equal_steps_whatever_the_numbers_and_the_order(blocks, rng):
    names = [f"decoder.h.{block}.mlp.1.weight" for block in blocks] + ["head.weight"]
    rng.shuffle(names)
    depths = relative_depths(names)
    assert list(depths) == names
    assert depths["head.weight"] == 0
    found = [depths[f"decoder.h.{block}.mlp.1.weight"] for block in sorted(blocks)]
    assert found == [i / max(1, len(blocks) - 1) for i in range(len(blocks))]


def test_depths_of_real_models():
    config = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    text = config | {"num_hidden_layers": 2, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=config | {"num_hidden_layers": 5, "image_size": 32}))
    depths = relative_depths(clip.state_dict())
    assert depths["text_model.encoder.layers.1.mlp.fc1.weight"] == 1
    assert [depths[f"vision_model.encoder.layers.{i}.mlp.fc1.weight"] for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert depths["visual_projection.weight"] == 0
    resnet = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 4, 4], depths=[1, 1, 1], layer_type="basic"))
    first = "encoder.stages.{}.layers.0.layer.0.convolution.weight"
    assert [relative_depths(resnet.state_dict())[first.format(stage)] for stage in range(3)] == [0, 0.5, 1]
    plain = nn.Sequential(OrderedDict({"0": nn.Linear(2, 2), "1": nn.ReLU(), "10": nn.Linear(2, 2)}))
    assert relative_depths(plain.state_dict()) == {"0.weight": 0, "0.bias": 0, "10.weight": 1, "10.bias": 1}
    stages = ["layer1.0.w", "layer1.1.w", "layer2.0.w", "layer10.0.w", "conv1.w"]
    assert list(relative_depths(stages).values()) == [0, 1 / 3, 2 / 3, 1, 0]


@parametrize("dtype", [torch.float16, torch.bfloat16])
@parametrize("inner", INNER)
def test_half_precision_is_rounded_once(inner, dtype):
    base, expert = ({name: tensor.to(dtype) for name, tensor in model(seed).items()} for seed in (0, 1))
    wide_base, wide_expert = ({name: tensor.float() for name, tensor in one.items()} for one in (base, expert))
    full = Lines(inner, 0.4, 0.3)(wide_base, {"one": wide_expert})
    merged = Lines(inner, 0.4, 0.3)(base, {"one": expert})
    assert all(torch.equal(merged[name], full[name].to(dtype)) for name in base)


def test_tied_half_precision_weights_count_once():
    def tied(one, two):
        weight = torch.tensor(one, dtype=torch.float16)
        return {"embed": weight, "other": torch.tensor(two, dtype=torch.float16), "head": weight}

    base, expert = tied([0.0, 0.0], [0.0, 0.0]), tied([3.0, 2.0], [0.5, 0.4])
    inner = Ties(1.0, 0.75)  # of 4 parameters it keeps 3
    merged = Lines(inner, 1.0, 0.0)(base, {"one": expert})
    assert merged["other"].tolist() == [0.5, 0.0]
    assert merged["head"] is merged["embed"]


def test_orders_integers_and_arguments():
    base, experts = pool()
    base["steps"] = torch.tensor(3)
    experts = {key: expert | {"steps": torch.tensor(9)} for key, expert in experts.items()}
    before = {name: tensor.clone() for name, tensor in base.items()}
    merged = Lines()(base, experts)
    assert merged["steps"] == 3
    assert list(merged) == list(base)
    reverse = {key: dict(reversed(expert.items())) for key, expert in reversed(experts.items())}
    other = Lines()(dict(reversed(base.items())), reverse)
    assert all(torch.equal(other[name], merged[name]) for name in base)
    for tensor in merged.values():
        tensor.add_(1)
    assert all(torch.equal(base[name], before[name]) for name in base)


@parametrize("alpha", [None, 0.5])
def test_a_checkpoint_is_read_once(alpha):
    base, experts = pool()
    reads = []

    class Lazy(Mapping):
        def __getitem__(self, name):
            reads.append(name)
            return experts[name]

        def __contains__(self, name):
            return name in experts

        def __iter__(self):
            return iter(experts)

        def __len__(self):
            return len(experts)

    Lines(alpha=alpha)(base, Lazy())
    assert sorted(reads) == sorted(experts)


@parametrize("alpha", [None, 0.5])
def test_errors_of_the_method_are_told(alpha):
    base, experts = pool()
    experts["1"]["norm"][0, 0] = torch.nan
    with pytest.raises(MergeError, match=r"'norm' holds NaN or Inf: it already is so in expert '1'$"):
        Lines(alpha=alpha)(base, experts)
    with pytest.raises(MergeError, match="no expert"):
        Lines(alpha=alpha)(base, {})
    with pytest.raises(MergeError, match=r"'1' does not fit the base: 1 missing: norm"):
        Lines(alpha=alpha)(base, {"1": {name: t for name, t in base.items() if name != "norm"}})


def test_a_method_is_a_value():
    assert isinstance(Lines(), MergingMethod)
    assert {Lines(): 1}[Lines(TaskArithmetic(1.0), None, 0.5)]
    assert Lines(Lines(), 1.0)  # of itself, too


@parametrize(
    ("make", "text"),
    [
        (lambda: Lines("ties"), "Lines: method must be a merging method, such as TaskArithmetic, got 'ties'"),
        (lambda: Lines({"scaling": 1}), "method .* {'scaling': 1}"),
        (lambda: Lines(alpha="1/8"), "Lines: alpha .* '1/8'"),
        (lambda: Lines(beta=None), "Lines: beta .* None"),
        (lambda: Lines(beta=float("nan")), "Lines: beta .* nan"),
    ],
)
def test_hyper_parameters_are_checked(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_any_method_composes_into_it(monkeypatch):
    monkeypatch.setattr(fusion_eval.merging, "Lines", Lines, raising=False)
    assert build(compose(["model=lines"]).model) == Lines()
    chosen = compose(["model=lines", "model@model.method=ties", "model.method.density=0.5", "model.beta=0.1"])
    assert build(chosen.model) == Lines(Ties(1.0, 0.5), None, 0.1)
    text = yaml.safe_load((ROOT / "conf" / "model" / "lines.yaml").read_text())
    assert {name: value for name, value in text.items() if name in ("alpha", "beta")} == {"alpha": None, "beta": 0.5}
