"""A module without random parameters is in all else the module it would have been."""

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, GPT2Config, GPT2LMHeadModel

from fusion_eval.models.architecture import build_empty


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.ones = nn.Parameter(torch.empty(3))
        nn.init.ones_(self.ones)
        self.register_buffer("frequencies", torch.empty(5).normal_(), persistent=False)


def test_parameters_are_not_drawn_and_the_rest_is_as_ever():
    torch.manual_seed(0)
    empty = build_empty(Fourier)
    drawn = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(empty.frequencies, torch.empty(5).normal_())
    assert torch.equal(drawn, torch.get_rng_state())  # nothing else was drawn
    assert torch.equal(empty.ones, torch.ones(3))
    torch.manual_seed(0)
    assert not torch.equal(Fourier().frequencies, empty.frequencies)  # after the 64 * 65 numbers of the layer


def test_models_of_transformers_are_whole_once_their_weights_are_loaded():
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32
    )
    gpt = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    inputs = torch.randn(2, 3, 32, 32), torch.arange(8).view(1, 8)
    for architecture, given in zip((lambda: CLIPVisionModel(clip), lambda: GPT2LMHeadModel(gpt)), inputs, strict=True):
        whole, empty = architecture(), build_empty(architecture)
        assert [name for name, _ in empty.named_buffers()] == [name for name, _ in whole.named_buffers()]
        empty.load_state_dict(whole.state_dict())
        with torch.no_grad():
            assert torch.equal(empty.eval()(given)[0], whole.eval()(given)[0])
