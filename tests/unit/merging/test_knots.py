"""KnOTS: linear where it must be, an authors' recipe in NumPy where it is not, and blind to rounding errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fusion_eval.errors import ConfigError, MergeError
from fusion_eval.merging import Knots, TaskArithmetic

ROOT = Path(__file__).parents[3]
parametrize = pytest.mark.parametrize


def adapted(rank=2, experts=3, shapes=((8, 6), (5, 9)), seed=0):
    """A base, and experts that are it plus a product of two thin matrices in each layer: float64."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = {f"layer {i}": random(*shape) for i, shape in enumerate(shapes)}
    return base, {
        f"expert {e}": {
            name: tensor + random(len(tensor), rank) @ random(rank, tensor.shape[1]) for name, tensor in base.items()
        }
        for e in range(experts)
    }


def in_numpy(base, experts, scaling, density):
    """Concatenate, decompose, trim over all layers, elect, average, take back: float64 state dicts."""
    common, rows = {}, {}
    for name in base:
        vectors = [(expert[name] - base[name]).numpy() for expert in experts.values()]
        u, s, vh = np.linalg.svd(np.concatenate(vectors, axis=1), full_matrices=False)
        rank = int((s > 1e-5).sum())
        common[name] = u[:, :rank]
        blocks = np.split(s[:rank, None] * vh[:rank], len(vectors), axis=1)
        for index, block in enumerate(blocks):
            rows.setdefault(index, {})[name] = block
    for index, layers in rows.items():
        flat = np.sort(np.abs(np.concatenate([block.ravel() for block in layers.values()])))[::-1]
        smallest = flat[max(1, int(density * len(flat))) - 1]
        rows[index] = {name: np.where(np.abs(block) >= smallest, block, 0) for name, block in layers.items()}
    merged = {}
    for name in base:
        stacked = np.stack([layers[name] for layers in rows.values()])
        agreeing = np.sign(stacked) * np.sign(stacked.sum(axis=0)) > 0
        mean = (stacked * agreeing).sum(axis=0) / np.maximum(1, agreeing.sum(axis=0))
        merged[name] = base[name] + scaling * torch.from_numpy(common[name] @ mean)
    return merged


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 1), st.floats(-1, 2), st.integers(0, 99))
def test_it_is_ties_in_the_common_space(rank, experts, density, scaling, seed):
    base, models = adapted(rank, experts, seed=seed)
    torch.testing.assert_close(Knots(scaling, density)(base, models), in_numpy(base, models, scaling, density))


def test_adding_up_in_the_common_space_is_task_arithmetic():
    base, experts = adapted()
    weights = {"expert 1": -0.5}
    merged = Knots(0.4, 1.0, "sum", weights=weights)(base, experts)
    torch.testing.assert_close(merged, TaskArithmetic(0.4, weights)(base, experts))


def test_one_expert_untrimmed_is_that_expert():
    base, experts = adapted(experts=1)
    torch.testing.assert_close(Knots(1.0, 1.0)(base, experts), experts["expert 0"])


def test_rounding_errors_of_the_experts_are_no_directions():
    base, experts = adapted(shapes=((64, 48),))
    single = [{name: tensor.float() for name, tensor in model.items()} for model in (base, *experts.values())]
    merged = Knots()(single[0], dict(zip(experts, single[1:], strict=True)))
    torch.testing.assert_close(merged["layer 0"].double(), Knots()(base, experts)["layer 0"], atol=1e-4, rtol=0)
    noisy = Knots(threshold=0.0)(single[0], dict(zip(experts, single[1:], strict=True)))["layer 0"]
    assert (noisy.double() - Knots()(base, experts)["layer 0"]).abs().max() > 0.1


def test_what_is_no_matrix_gets_the_mean_and_what_nobody_moved_stays():
    base, experts = adapted()
    base |= {"bias": torch.zeros(3), "still": torch.ones(4, 4)}
    for index, expert in enumerate(experts.values()):
        expert |= {"bias": torch.full((3,), float(index)), "still": torch.ones(4, 4)}
    merged = Knots(0.5)(base, experts)
    assert merged["bias"].tolist() == [0.5] * 3
    assert torch.equal(merged["still"], base["still"])
    torch.testing.assert_close(merged["layer 0"], in_numpy(*adapted(), 0.5, 0.2)["layer 0"])


def test_kernels_are_matrices_if_asked_for():
    base, experts = adapted(shapes=((6, 8),))
    kernels = [{"layer 0": model["layer 0"].view(6, 2, 2, 2)} for model in (base, *experts.values())]
    merged = Knots(flatten_kernels=True)(kernels[0], dict(zip(experts, kernels[1:], strict=True)))
    assert torch.equal(merged["layer 0"].flatten(1), Knots()(base, experts)["layer 0"])


def test_equal_bits_for_any_order_and_number_of_threads():
    base, experts = adapted(rank=16, shapes=((200, 300),))
    merged = Knots()(base, experts)["layer 0"]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(Knots()(base, dict(reversed(experts.items())))["layer 0"], merged)
    finally:
        torch.set_num_threads(threads)


def test_not_finite_is_named():
    base, experts = adapted()
    experts["expert 1"]["layer 0"][0, 0] = torch.nan
    with pytest.raises(MergeError, match="'layer 0' holds NaN or Inf: it already is so in expert 'expert 1'"):
        Knots()(base, experts)


@parametrize(
    ("settings", "text"),
    [
        ({"scaling": float("nan")}, "scaling .* nan"),
        ({"density": 0}, r"density must be in \(0, 1\].* 0"),
        ({"consensus": "mean"}, "consensus .* 'mean'"),
        ({"threshold": -1.0}, "threshold must not be negative"),
        ({"weights": {"one": None}}, r"weights\.one"),
    ],
)
def test_hyper_parameters_are_checked(settings, text):
    with pytest.raises(ConfigError, match=f"Knots: {text}"):
        Knots(**settings)


def test_the_config_has_the_defaults():
    config = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / "knots.yaml"))
    assert config.pop("_target_") == "fusion_eval.merging.Knots"
    assert Knots(**config) == Knots()
