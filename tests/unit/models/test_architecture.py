"""A module built to be filled is, once its state dict is loaded, the module it would have been."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from fusion_eval.merging.mismatch import describe_mismatch
from fusion_eval.merging.state_dict import distinct_names
from fusion_eval.models.architecture import build_unfilled, form_of, put
from fusion_eval.zoo import Encoder


class Counted(nn.Module):
    """Has what every model may have, and counts how often it is built."""

    built = 0

    def __init__(self):
        super().__init__()
        type(self).built += 1
        self.linear = nn.Linear(64, 64)
        self.token = nn.Parameter(torch.randn(3) * 0.02)
        nn.init.orthogonal_(self.linear.weight.data[:4])
        self.norm = nn.BatchNorm1d(64)
        self.embedding = nn.Embedding(5, 3, padding_idx=0)
        self.register_buffer("positions", torch.arange(4), persistent=False)
        self.tied = self.embedding.weight
        self.scale = nn.Parameter(torch.tensor(2.6592))


class BufferAfterDraws(Counted):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.empty(5).normal_(), persistent=False)


class BufferOfWeights(Counted):
    def __init__(self):
        super().__init__()
        self.register_buffer("norms", torch.zeros(64), persistent=False)
        self.norms.copy_(self.linear.weight.norm(dim=1).detach())


class AttributeOfWeights(Counted):
    def __init__(self):
        super().__init__()
        self.hidden = {"first": [self.linear.weight.detach().clone()]}


class NumberOfWeights(Counted):
    def __init__(self):
        super().__init__()
        self.largest = self.linear.weight.max().item()


class BranchOnWeights(Counted):
    def __init__(self):
        super().__init__()
        self.sign = 1 if self.linear.weight.sum() > 0 else -1


class RejectionSampling(Counted):
    def __init__(self):
        super().__init__()
        nn.init.trunc_normal_(self.linear.weight, std=0.07)


class WeightOutsideOfStateDict(Counted):
    def state_dict(self, *args, **kwargs):
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name != "token"}


def build(architecture):
    """What is built, and how often the constructor ran."""
    torch.manual_seed(0)
    before = Counted.built
    architecture.built = 0
    module = build_unfilled(architecture)
    assert Counted.built == before
    return module, architecture.built


def test_weights_are_not_drawn():
    module, times = build(type("Plain", (Counted,), {}))
    assert times == 1
    assert torch.equal(module.positions, torch.arange(4))
    assert torch.equal(module.norm.running_var, torch.ones(64))
    torch.manual_seed(0)
    assert not torch.equal(module.linear.weight, nn.Linear(64, 64).weight)


@pytest.mark.parametrize(
    "architecture",
    [
        BufferAfterDraws,
        BufferOfWeights,
        AttributeOfWeights,
        NumberOfWeights,
        BranchOnWeights,
        RejectionSampling,
        WeightOutsideOfStateDict,
    ],
)
def test_where_a_random_number_would_be_missed_the_module_is_built_the_usual_way(architecture):
    module, times = build(architecture)
    assert times == 2
    whole = architecture()
    assert abs(module.linear.weight.std() - whole.linear.weight.std()) < 0.01
    assert (module.linear.weight != 0).all()


def test_an_architecture_that_fails_says_why():
    def broken():
        raise KeyError("hidden_size")

    with pytest.raises(KeyError, match="hidden_size"):
        build_unfilled(broken)


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
TOKENS = torch.arange(8).view(1, 8)
REAL = {
    "clip": (lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=32)), {"pixel_values": IMAGE}),
    "vit": (lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32)), {"pixel_values": IMAGE}),
    "bert": (lambda: BertModel(BertConfig(**SMALL, vocab_size=20)), {"input_ids": TOKENS}),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2)),
        {"input_ids": TOKENS},
    ),
    "t5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
        ),
        {"input_ids": TOKENS, "labels": TOKENS},
    ),
    "encoder": (Encoder, {"images": IMAGE}),
    "transformer": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        {"src": torch.linspace(-1, 1, 32).reshape(1, 4, 8)},
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_models_are_whole_once_their_weights_are_loaded(name):
    architecture, inputs = REAL[name]
    whole, filled = architecture().eval(), build_unfilled(architecture).eval()
    buffers = dict(whole.named_buffers())
    assert [key for key, _ in filled.named_buffers()] == list(buffers)
    filled.load_state_dict(whole.state_dict())
    for key, value in filled.named_buffers():
        assert torch.equal(value, buffers[key]), key
    arguments = inputs.values() if name in ("encoder", "transformer") else ()
    with torch.no_grad():
        expected, found = (model(*arguments, **({} if arguments else inputs)) for model in (whole, filled))
    if not isinstance(expected, torch.Tensor):
        expected, found = expected[0], found[0]
    assert torch.equal(expected, found)


def test_the_form_has_no_values_and_the_same_ties():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    held, form = model.state_dict(), form_of(model)
    assert {tensor.device.type for tensor in form.values()} == {"meta"}
    assert distinct_names(form) == distinct_names(held)
    assert describe_mismatch(held, form) is None


@torch.no_grad()
def test_a_merged_tensor_becomes_the_parameter_without_a_copy():
    layer, merged = nn.Linear(3, 2), torch.randn(2, 3)
    weight = layer.weight
    put(merged, layer.state_dict(keep_vars=True)["weight"])
    assert layer.weight is weight
    assert weight.data_ptr() == merged.data_ptr()
    assert weight.requires_grad
    put(merged, weight)  # tied, under its other name
    assert torch.equal(weight, merged)


@torch.no_grad()
@pytest.mark.parametrize(
    "merged",
    [torch.randn(4, 3)[:2], torch.randn(3, 2).T, torch.randn(2, 3).double()],
    ids=["part of a tensor", "other strides", "other dtype"],
)
def test_what_is_not_the_like_is_copied(merged):
    layer = nn.Linear(3, 2)
    before = layer.weight.data_ptr()
    put(merged, layer.weight)
    assert layer.weight.data_ptr() == before
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, merged.float())


@torch.no_grad()
def test_memory_that_something_else_sees_is_written_to():
    layer = nn.Linear(3, 2)
    layer.seen = layer.weight.detach()[0]
    put(torch.ones(2, 3), layer.weight)
    assert layer.seen.tolist() == [1, 1, 1]
    merged = torch.zeros(2, 3)
    kept = merged.view(-1)
    put(merged, nn.Linear(3, 2).weight)
    put(merged, layer.weight)
    assert layer.weight.data_ptr() != kept.data_ptr()


def test_what_inference_made_is_copied():
    layer = nn.Linear(3, 2)
    with torch.inference_mode():
        put(torch.ones(2, 3), layer.weight)
    layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad is not None
