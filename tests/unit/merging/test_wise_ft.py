"""WiSE-FT against mergekit's linear merge of base and expert (tests/oracles), its two ends, and its refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Expert, TaskArithmetic
from fusion_eval.merging.wise_ft import WiseFt


def test_mergekit(base, experts, oracle):
    merged = WiseFt("two", 0.3)(base, experts)
    torch.testing.assert_close(merged, oracle("mergekit.safetensors", "wise_ft"), rtol=1e-6, atol=1e-7)


def test_the_ends_are_the_base_and_the_expert_to_the_bit(base, experts):
    torch.testing.assert_close(WiseFt("two", 0)(base, experts), base, rtol=0, atol=0)
    torch.testing.assert_close(WiseFt("two", 1)(base, experts), experts["two"], rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(scaling=st.floats(-2, 2))
def test_it_is_task_arithmetic_of_one_expert(base, experts, scaling):
    same = TaskArithmetic(scaling)(base, {"two": experts["two"]})
    torch.testing.assert_close(WiseFt("two", scaling)(base, experts), same, rtol=1e-5, atol=1e-6)


def test_dtypes_integers_and_tied_weights():
    weight, other = torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64)
    base = {"embed": weight, "head": weight, "steps": torch.tensor(3), "empty": torch.zeros(0)}
    expert = {"embed": other, "head": other, "steps": torch.tensor(9), "empty": torch.zeros(0)}
    merged = WiseFt("one")(base, {"one": expert})
    assert merged["embed"].dtype == torch.bfloat16
    assert merged["embed"].tolist() == [0.5, 0.5]
    assert merged["head"] is merged["embed"]
    assert merged["steps"] == 3
    assert list(merged) == list(base)


def test_refusals(base, experts):
    with pytest.raises(MergeError, match=r"'tow'; did you mean 'two'\? Known: one, three, two"):
        WiseFt("tow")(base, experts)
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'bad'"):
        WiseFt("bad")({"w": torch.zeros(2)}, {"bad": {"w": torch.tensor([0.0, float("nan")])}})
    with pytest.raises(ConfigError, match="WiseFt: scaling must be a finite number, got 'half'"):
        WiseFt("two", "half")


def test_only_the_expert_that_is_named_must_fit(base, experts):
    assert WiseFt("two")(base, experts | {"other": {}}).keys() == Expert("two")(base, experts).keys()
