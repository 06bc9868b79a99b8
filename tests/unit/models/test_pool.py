"""A pool merges what lies on disk into the architecture it names, and reads no more than it must."""

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from fusion_eval.errors import CheckpointError, ConfigError, MergeError
from fusion_eval.merging import Average, Base, Expert, MergingMethod, TaskArithmetic, Ties
from fusion_eval.models import Checkpoint, LinearHead, MergedModel, ModelPool


def network(width=4):
    return nn.Sequential(nn.Conv1d(2, width, 3), nn.BatchNorm1d(width), nn.Flatten(), nn.Linear(width * 3, 5))


@pytest.fixture
def weights():
    return {name: network().state_dict() for name in ("base", "one.v1", "two")}


@pytest.fixture
def pool(tmp_path, weights):
    for name, state_dict in weights.items():
        save_file(state_dict, tmp_path / f"{name}.safetensors")
    save_file({"weight": torch.randn(3, 5), "bias": torch.randn(3)}, tmp_path / "head.safetensors")
    return ModelPool(
        architecture=partial(network, width=4),
        base=str(tmp_path / "base.safetensors"),
        experts={name: str(tmp_path / f"{name}.safetensors") for name in ("one.v1", "two")},
        heads={"one.v1": LinearHead(str(tmp_path / "head.safetensors"))},
    )


@pytest.mark.parametrize("method", [Base(), Expert("two"), Average(), TaskArithmetic(0.4), Ties(), Ties(trim="tensor")])
def test_merge_equals_the_call_in_memory(pool, weights, method):
    expected = network()
    expected.load_state_dict(method(weights["base"], {name: weights[name] for name in pool.experts}))
    inputs = torch.randn(3, 2, 5)
    merged = pool.merge(method)
    assert isinstance(merged, MergedModel)
    assert torch.equal(merged.eval()(inputs), expected.eval()(inputs))


def test_only_what_a_method_needs_is_read(pool, tmp_path):
    (tmp_path / "two.safetensors").unlink()
    pool.merge(Base())
    pool.merge(Expert("one.v1"))
    with pytest.raises(CheckpointError, match=r"two\.safetensors: no such file"):
        pool.merge(Average())
    with pytest.raises(MergeError, match=r"Known: one\.v1, two"):
        pool.merge(Expert("three"))


def test_heads_are_loaded_and_stay_out_of_the_weights(pool):
    merged = pool.merge(Base())
    assert merged.heads["one.v1"](merged(torch.randn(3, 2, 5))).shape == (3, 3)
    assert all(name.startswith("backbone.") for name in merged.state_dict())


def test_a_pool_reads_nothing_until_it_merges(tmp_path):
    pool = ModelPool(network, str(tmp_path / "absent.pt"), {"one": str(tmp_path / "absent.pt")})
    assert pool.heads == {}
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such file"):
        pool.merge(Base())


def test_an_expert_of_another_architecture_is_named(pool, tmp_path):
    save_file(network(width=6).state_dict(), tmp_path / "two.safetensors")
    with pytest.raises(
        CheckpointError, match=r"two\.safetensors: .* differing: 0\.weight is \(6, 2, 3\), not \(4, 2, 3\)"
    ):
        pool.merge(Average())


def test_half_precision_checkpoints_go_into_a_float32_architecture(pool, tmp_path, weights):
    for name, state_dict in weights.items():
        half = {key: t.half() if t.is_floating_point() else t for key, t in state_dict.items()}
        save_file(half, tmp_path / f"{name}.safetensors")
    merged = pool.merge(Average())
    assert {tensor.dtype for tensor in merged.parameters()} == {torch.float32}
    mean = (weights["one.v1"]["0.weight"] + weights["two"]["0.weight"]) / 2
    torch.testing.assert_close(merged.backbone[0].weight, mean, atol=1e-3, rtol=1e-3)


def test_a_method_that_returns_something_else_is_named(pool):
    class Part(MergingMethod):
        def __init__(self, *names, length):
            self.names, self.length = names, length

        def stream(self, base, experts):
            return ((name, base["0.bias"][: self.length]) for name in self.names)

    with pytest.raises(MergeError, match=r"Part.* left out 0\.weight, 1\.weight"):
        pool.merge(Part("0.bias", length=4))
    with pytest.raises(MergeError, match=r"Part.* made a tensor '0\.bias' of shape \(1,\), which the base has not"):
        pool.merge(Part("0.bias", length=1))
    with pytest.raises(MergeError, match=r"Part.* made a tensor 'bias' of shape \(4,\), which the base has not"):
        pool.merge(Part("bias", length=4))
    with pytest.raises(ConfigError, match=r"model: expected a merging method .*, found 'average'"):
        pool.merge("average")


def test_tied_weights_stay_tied(tmp_path):
    def gpt():
        return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=8, n_embd=4, n_layer=1, n_head=1))

    models = {name: gpt() for name in ("base", "one", "two")}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    pool = ModelPool(gpt, str(tmp_path / "base"), {name: str(tmp_path / name) for name in ("one", "two")})
    merged = pool.merge(Average()).backbone
    assert merged.lm_head.weight is merged.transformer.wte.weight
    torch.testing.assert_close(merged.lm_head.weight, (models["one"].lm_head.weight + models["two"].lm_head.weight) / 2)


def test_a_checkpoint_merged_elsewhere(pool, tmp_path, weights):
    torch.save({"state_dict": {f"model.{name}": t for name, t in weights["two"].items()}}, tmp_path / "merged.ckpt")
    inputs = torch.randn(3, 2, 5)
    merged = pool.merge(Checkpoint(str(tmp_path / "merged.ckpt")))
    assert torch.equal(merged.eval()(inputs), pool.merge(Expert("two")).eval()(inputs))


def test_a_merged_checkpoint_is_checked_like_a_merge(pool, tmp_path, weights):
    path = tmp_path / "merged.safetensors"
    save_file(weights["two"] | {"0.bias": torch.full((4,), torch.nan)}, path)
    with pytest.raises(MergeError, match=r"'0\.bias' holds NaN or Inf: .*merged\.safetensors"):
        pool.merge(Checkpoint(str(path)))
    save_file({"0.bias": torch.zeros(4)}, path)
    with pytest.raises(CheckpointError, match=r"merged\.safetensors: .* missing: 0\.weight"):
        pool.merge(Checkpoint(str(path)))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_head(tmp_path, bias):
    layer = nn.Linear(4, 3, bias=bias)
    save_file({name: tensor.half() for name, tensor in layer.state_dict().items()}, tmp_path / "head.safetensors")
    head = LinearHead(str(tmp_path / "head.safetensors")).load()
    assert head.weight.dtype == torch.float32
    inputs = torch.randn(2, 4)
    torch.testing.assert_close(head(inputs), layer(inputs), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"bias": torch.zeros(3)}, "a linear head is `weight`"),
        ({"weight": torch.zeros(3)}, "a linear head is `weight`"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)}, r"bias is \(4,\), not \(3,\)"),
        ({"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}, "unexpected: scale"),
    ],
)
def test_what_is_no_linear_head(tmp_path, content, text):
    save_file(content, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=rf"head\.safetensors.*{text}"):
        LinearHead(str(tmp_path / "head.safetensors")).load()


def test_the_merged_model_passes_everything_on():
    class Backbone(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    assert MergedModel(Backbone(), {})(1, mask=2) == ((1,), {"mask": 2})
