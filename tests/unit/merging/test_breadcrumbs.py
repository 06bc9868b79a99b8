"""Model Breadcrumbs against mergekit (tests/oracles) and against NumPy's quantiles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import TaskArithmetic, Ties
from fusion_eval.merging.breadcrumbs import Breadcrumbs

ORACLES = Path(__file__).parents[2] / "oracles"


@pytest.mark.parametrize(("recipe", "consensus"), [("breadcrumbs", "sum"), ("breadcrumbs_ties", "ties")])
def test_mergekit(base, experts, recipe, consensus, oracle):
    with safe_open(ORACLES / "mergekit.safetensors", "pt") as file:
        options = json.loads(file.metadata()["recipes"])[recipe]["options"]
    method = Breadcrumbs(options.get("lambda", 1.0), options["density"], options["gamma"], consensus)
    torch.testing.assert_close(method(base, experts), oracle("mergekit.safetensors", recipe), rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    values=arrays.arrays("float32", (7, 9), elements=st.floats(-100, 100, width=32), unique=True),
    density=st.floats(0.05, 0.7),
    outliers=st.floats(0, 0.3),
)
def test_what_is_kept_lies_between_two_quantiles(values, density, outliers):
    zero, expert = torch.zeros(7, 9), torch.from_numpy(values)
    kept = Breadcrumbs(1.0, density, outliers)({"w": zero}, {"one": {"w": expert}})["w"].numpy()
    sizes = np.sort(np.abs(values).ravel())
    end = 63 - int(outliers * 63)
    low, high = sizes[end - max(1, int(density * 63))], sizes[end - 1]
    between = (np.abs(values) > low) & (np.abs(values) < high)
    np.testing.assert_array_equal(kept[between], values[between])
    outside = (np.abs(values) < low) | (np.abs(values) > high)
    assert not kept[outside].any()
    assert np.isin(kept, [*values.ravel(), 0]).all()
    assert np.count_nonzero(kept) >= max(1, int(density * 63)) - 1  # one of the values may be 0


def test_nothing_masked(base, experts):
    everything = {"density": 1.0, "outliers": 0.0}
    same = TaskArithmetic(0.4)(base, experts)
    torch.testing.assert_close(Breadcrumbs(0.4, **everything)(base, experts), same, rtol=0, atol=0)
    same = Ties(0.4, 1.0)(base, experts)
    torch.testing.assert_close(Breadcrumbs(0.4, **everything, consensus="ties")(base, experts), same, rtol=0, atol=0)


@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_scaling_0_is_the_base_and_no_order_matters(base, experts, consensus):
    assert_same(Breadcrumbs(0, consensus=consensus)(base, experts), base)
    backwards = {name: dict(reversed(expert.items())) for name, expert in reversed(experts.items())}
    method = Breadcrumbs(0.5, 0.3, 0.2, consensus)
    assert_same(method(dict(reversed(base.items())), backwards), method(base, experts))


def assert_same(merged, expected):
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_a_tensor_of_few_values_is_merged_too():
    assert Breadcrumbs(1.0)({"w": torch.tensor(1.0)}, {"one": {"w": torch.tensor(3.0)}})["w"] == 3
    small = torch.tensor([1.0, -3.0, 2.0])
    assert Breadcrumbs(1.0)({"w": torch.zeros(3)}, {"one": {"w": small}})["w"].tolist() == [0, -3, 0]


def test_forms_dtypes_and_ties():
    weight = torch.zeros(4, dtype=torch.bfloat16)
    base = {"a": weight, "b": weight, "empty": torch.zeros(0, 3), "steps": torch.tensor(3)}
    expert = {name: (tensor + 1).to(tensor.dtype) for name, tensor in base.items()}
    merged = Breadcrumbs(1.0, 0.5)(base, {"one": expert})
    assert merged["a"] is merged["b"]
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert merged["a"].tolist() == [1.0] * 4  # all that equal the smallest one kept
    assert merged["steps"] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_outlier_that_is_not_finite_is_found_though_it_is_masked(bad):
    expert = {"w": torch.linspace(0, 1, 300)}
    expert["w"][7] = bad
    with pytest.raises(MergeError, match=r"'w' holds NaN or Inf: it already is so in expert 'one'$"):
        Breadcrumbs(outliers=0.1)({"w": torch.zeros(300)}, {"one": expert, "two": {"w": torch.ones(300)}})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Breadcrumbs(density=0), r"Breadcrumbs: density must be in \(0, 1\].* 0"),
        (lambda: Breadcrumbs(outliers=-0.1), r"Breadcrumbs: outliers must be in \[0, 1\].* -0.1"),
        (lambda: Breadcrumbs(density=0.9, outliers=0.2), "density 0.9 and outliers 0.2 are more than 1 together"),
        (lambda: Breadcrumbs(scaling="x"), "Breadcrumbs: scaling .* 'x'"),
        (lambda: Breadcrumbs(consensus="mean"), "Breadcrumbs: consensus .* 'mean'"),
    ],
)
def test_hyper_parameters_are_checked_when_a_method_is_made(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
