"""Per-expert weights: what they do to each method that has them, and how wrong ones are refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Average, Breadcrumbs, Dare, Della, MultiSlerp, TaskArithmetic, Ties

parametrize = pytest.mark.parametrize
METHODS = [Average, TaskArithmetic, Ties, Dare, Della, Breadcrumbs, MultiSlerp]
weight = st.floats(0.125, 3, width=32)


def models():
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(4, 30, generator=generator)} for _ in range(4))
    return base, dict(zip(("one", "two", "three"), experts, strict=True))


@parametrize("method", METHODS)
def test_weights_of_1_change_nothing(method):
    base, experts = models()
    assert torch.equal(method(weights={"one": 1, "two": 1.0})(base, experts)["w"], method()(base, experts)["w"])


@parametrize("method", METHODS)
def test_an_expert_of_weight_0_is_as_if_absent(method):
    base, experts = models()
    rest = {name: experts[name] for name in ("one", "two")}
    merged = method(weights={"three": 0.0})(base, experts)["w"]
    torch.testing.assert_close(merged, method()(base, rest)["w"])


@settings(max_examples=20, deadline=None)
@given(st.lists(weight, min_size=3, max_size=3))
def test_weighted_average_and_sum_are_numpy_s(values):
    base, experts = models()
    weights = dict(zip(experts, values, strict=True))
    stacked = torch.stack([expert["w"] for expert in experts.values()]).double().numpy()
    mean = (stacked * torch.tensor(values).double().view(3, 1, 1).numpy()).sum(axis=0) / sum(values)
    torch.testing.assert_close(
        Average(weights=weights)(base, experts)["w"].double(), torch.from_numpy(mean), atol=1e-5, rtol=1e-5
    )
    total = torch.from_numpy(mean) * sum(values) - sum(values) * base["w"].double()
    merged = TaskArithmetic(0.3, weights=weights)(base, experts)["w"].double()
    torch.testing.assert_close(merged, base["w"].double() + 0.3 * total, atol=1e-5, rtol=1e-5)


@parametrize("method", [Ties, Dare, Della, Breadcrumbs])
def test_one_scale_for_all_is_a_scale_of_the_sum_or_nothing(method):
    base, experts = models()
    twice = method(weights=dict.fromkeys(experts, 2.0))(base, experts)["w"] - base["w"]
    once = method()(base, experts)["w"] - base["w"]
    factor = 2 if getattr(method(), "consensus", "ties") == "sum" else 1  # a mean weighs by the share alone
    torch.testing.assert_close(twice, factor * once, atol=1e-5, rtol=1e-5)


@parametrize("method", METHODS)
def test_wrong_weights(method):
    base, experts = models()
    with pytest.raises(MergeError, match=r"weights: there is no expert 'tow'; did you mean 'two'\?"):
        method(weights={"tow": 0.5})(base, experts)
    for bad in (float("nan"), "0.5", None, True):
        with pytest.raises(ConfigError, match=rf"{method.__name__}: weights\.one must be a finite number"):
            method(weights={"one": bad})
    with pytest.raises(ConfigError, match=r"weights must map expert names to numbers, got \[1\]"):
        method(weights=[1])


@parametrize("method", [Average, MultiSlerp])
def test_weights_that_add_up_to_0_have_no_mean(method):
    base, experts = models()
    with pytest.raises(MergeError, match=f"{method.__name__}: the weights add up to 0"):
        method(weights={"one": 1, "two": 1, "three": -2})(base, experts)
