"""Prefixes, tied weights, and what does not fit."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from fusion_eval.errors import CheckpointError
from fusion_eval.models import fit_state_dict


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


def prefixed(prefix, state_dict):
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def assert_fits(state_dict, module):
    fitted = fit_state_dict(state_dict, module.state_dict(), "x.pt")
    assert list(fitted) == list(module.state_dict())
    other = network()
    other.load_state_dict(fitted)
    inputs = torch.randn(4, 2)
    assert torch.equal(other(inputs), module(inputs))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "_orig_mod.", "_orig_mod.module.", "a.b.c."])
def test_one_prefix_is_taken_off(prefix):
    module = network()
    assert_fits(prefixed(prefix, module.state_dict()), module)


def test_prefixes_that_torch_itself_makes():
    module = network()
    assert_fits(torch.compile(module).state_dict(), module)
    assert_fits(nn.DataParallel(module).state_dict(), module)


def test_other_parts_beside_a_prefix_are_left_out():
    module = network()
    head = {"head.weight": torch.zeros(5, 3), "head.0.weight": torch.zeros(1), "criterion": torch.zeros(1)}
    assert_fits(head | prefixed("backbone.", module.state_dict()), module)


def test_the_prefix_that_covers_most_wins():
    module = network()
    assert_fits(prefixed("model.", module.state_dict()) | {"0.weight": torch.zeros(2, 2)}, module)


def test_order_of_keys_is_immaterial():
    module = network()
    assert_fits(dict(reversed(module.state_dict().items())), module)


def test_two_prefixes_that_fit_are_ambiguous():
    weights = network().state_dict()
    both = prefixed("student.", weights) | prefixed("teacher.", weights)
    with pytest.raises(CheckpointError, match=r"x\.pt: .* several prefixes: student\., teacher\."):
        fit_state_dict(both, weights, "x.pt")


def test_a_copy_below_a_prefix_is_no_reason_to_take_it():
    weights = network().state_dict()
    with pytest.raises(CheckpointError, match=r"x\.pt: .* 4 unexpected: ema\.0\.weight"):
        fit_state_dict(weights | prefixed("ema.", weights), weights, "x.pt")


def test_mismatches_are_named_and_counted():
    expected = {f"layer.{i}": torch.zeros(2) for i in range(8)} | {"w": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError) as refusal:
        fit_state_dict({"w": torch.zeros(3, 2), "layer.7": torch.zeros(2), "extra": torch.zeros(1)}, expected, "x.pt")
    assert str(refusal.value) == (
        "x.pt: the tensors do not fit the architecture: "
        "7 missing: layer.0, layer.1, layer.2, layer.3, layer.4, ...; "
        "1 unexpected: extra; 1 differing: w is (3, 2), not (2, 3)"
    )


def test_below_a_prefix_nothing_is_left_out():
    weights = network().state_dict()
    with pytest.raises(CheckpointError, match=r"below the prefix 'model\.': .* 1 unexpected: 2\.weight"):
        fit_state_dict(prefixed("model.", weights | {"2.weight": torch.zeros(1)}), weights, "x.pt")


def test_without_a_prefix_a_head_is_refused():
    weights = network().state_dict()
    with pytest.raises(CheckpointError, match=r"1 unexpected: head\.weight"):
        fit_state_dict(weights | {"head.weight": torch.zeros(1)}, weights, "x.pt")


def test_quantised_weights_are_refused():
    with pytest.raises(CheckpointError, match=r"w is torch\.int8, not torch\.float32"):
        fit_state_dict({"w": torch.zeros(2, dtype=torch.int8)}, {"w": torch.zeros(2)}, "x.pt")


def test_half_precision_fits():
    fitted = fit_state_dict({"w": torch.ones(2).half()}, {"w": torch.zeros(2)}, "x.pt")
    assert fitted["w"].dtype == torch.float16


def test_nothing_in_common():
    with pytest.raises(CheckpointError, match="1 missing: w; 1 unexpected: v"):
        fit_state_dict({"v": torch.zeros(2)}, {"w": torch.zeros(2)}, "x.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: w$"):
        fit_state_dict({}, {"w": torch.zeros(2)}, "x.pt")


@pytest.fixture(scope="module")
def gpt():
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=8, n_embd=4, n_layer=1, n_head=1))


@pytest.mark.parametrize(
    "stored", [("transformer.wte.weight",), ("lm_head.weight",), ("lm_head.weight", "transformer.wte.weight")]
)
def test_tied_weights_may_be_stored_under_any_of_their_names(gpt, stored):
    tied = {"transformer.wte.weight", "lm_head.weight"}
    weights = {name: tensor.clone() for name, tensor in gpt.state_dict().items() if name not in tied.difference(stored)}
    fitted = fit_state_dict(weights, gpt.state_dict(), "x.pt")
    assert list(fitted) == list(gpt.state_dict())
    assert fitted["lm_head.weight"] is fitted["transformer.wte.weight"]
    assert torch.equal(fitted["lm_head.weight"], gpt.lm_head.weight)


def test_tied_weights_that_differ_are_refused(gpt):
    weights = {name: tensor.clone() for name, tensor in gpt.state_dict().items()}
    weights["lm_head.weight"] += 1
    with pytest.raises(CheckpointError, match=r"1 untied: lm_head\.weight is not transformer\.wte\.weight"):
        fit_state_dict(weights, gpt.state_dict(), "x.pt")


def test_tied_weights_that_are_missing_are_named_both(gpt):
    weights = {name: tensor for name, tensor in gpt.state_dict().items() if "wte" not in name and "head" not in name}
    with pytest.raises(CheckpointError, match=r"2 missing: transformer\.wte\.weight, lm_head\.weight"):
        fit_state_dict(weights, gpt.state_dict(), "x.pt")
