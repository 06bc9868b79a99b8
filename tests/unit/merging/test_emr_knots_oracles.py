"""EMR-Merging and KnOTS against FusionBench (see tests/oracles/make_emr_knots_oracles.py)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusion_eval.merging import EmrMerging, Knots

ORACLES = Path(__file__).parents[2] / "oracles"
EXPERTS = ("one", "two", "three")
LAYERS = ("tall", "wide", "full rank")
parametrize = pytest.mark.parametrize


@pytest.fixture(scope="module")
def oracle():
    return load_file(ORACLES / "emr_knots.safetensors")


def flat(state_dict):
    return torch.cat([state_dict[name].flatten() for name in sorted(state_dict)])


@pytest.fixture(scope="module")
def llamas():
    """Base and experts with values of float32 in float64: their differences, and the sums with these, are exact."""
    tensors = load_file(ORACLES / "merging.safetensors")
    names = [name.partition("/")[2] for name in tensors if name.startswith("base/")]
    base, *experts = ({name: tensors[f"{m}/{name}"].double() for name in names} for m in ("base", *EXPERTS))
    return base, dict(zip(EXPERTS, experts, strict=True))


def pieces(state_dict, size=8):
    return {f"{i:03}": piece for i, piece in enumerate(flat(state_dict).split(size))}


def test_emr_s_unified_vector_and_masks_are_fusion_bench_s(oracle, llamas):
    base, experts = llamas
    unified = flat(EmrMerging()(base, experts)) - flat(base)
    assert torch.equal(unified, oracle["emr/unified"])
    for name in EXPERTS:
        mask = flat(EmrMerging().variant(name)(base, experts)) != flat(base)
        assert torch.equal(mask, oracle[f"emr/{name}/mask"].bool())
        assert 0 < mask.sum() < len(mask)


@parametrize("task", range(3))
def test_emr_s_rescaler_is_fusion_bench_s_where_each_tensor_counts_by_its_size(oracle, llamas, task):
    base, experts = llamas
    name = EXPERTS[task]
    merged = flat(EmrMerging().variant(name)(base, experts))
    vector = merged - flat(base)
    kept = oracle["emr/unified"] * oracle[f"emr/{name}/mask"]

    for cut in ("one tensor", "equal tensors"):
        rescaler = oracle[f"emr/rescalers/{cut}"][task].double()  # FusionBench adds up in float32
        torch.testing.assert_close(vector, rescaler * kept, rtol=1e-6, atol=1e-12)
    in_pieces = EmrMerging().variant(name)(pieces(base), {n: pieces(expert) for n, expert in experts.items()})
    torch.testing.assert_close(flat(in_pieces), merged, rtol=0, atol=1e-14)  # ours does not depend on the cut

    ours, theirs = (oracle[f"emr/rescalers/{cut}"][task].double() for cut in ("one tensor", "tensors"))
    assert abs(theirs / ours - 1) > 0.004  # a mean of each tensor, whatever its size
    their_vector = oracle[f"emr/{name}/model"] - flat(base)
    torch.testing.assert_close(theirs / ours * vector, their_vector, rtol=1e-6, atol=1e-12)


def test_emr_on_all_triples_of_small_integers(oracle):
    vectors, masks = oracle["emr/grid/vectors"], oracle["emr/grid/masks"].bool()
    undecided = vectors.sum(dim=0) == 0
    assert undecided.sum() == 19

    base, experts = {"w": torch.zeros(125)}, {name: {"w": v} for name, v in zip(EXPERTS, vectors, strict=True)}
    unified = EmrMerging()(base, experts)["w"]
    assert torch.equal(unified[~undecided], oracle["emr/grid/unified"][~undecided])
    assert not unified[undecided].any()
    assert torch.equal(oracle["emr/grid/unified"][undecided], vectors.amin(dim=0)[undecided])  # it elects minus
    for name, mask in zip(EXPERTS, masks, strict=True):
        assert torch.equal(EmrMerging().variant(name)(base, experts)["w"] != 0, mask & ~undecided)


@pytest.fixture(scope="module")
def adapted(oracle):
    base, *experts = ({layer: oracle[f"knots/{model}/{layer}"] for layer in LAYERS} for model in ("base", *EXPERTS))
    return base, dict(zip(EXPERTS, experts, strict=True))


@parametrize(("eps", "left_out"), [(1e-4, 3e-5), (1e-5, 1e-12)])
@parametrize("task", range(3))
def test_each_task_vector_is_in_the_common_space_as_fusion_bench_has_it(oracle, adapted, eps, left_out, task):
    base, experts = adapted
    alone = {name: float(name == EXPERTS[task]) for name in EXPERTS}
    merged = Knots(1.0, 1.0, "sum", threshold=eps, weights=alone)(base, experts)
    for layer, tensor in base.items():
        common, sizes, rows = (oracle[f"knots/{eps}/{layer}/{part}"] for part in ("U", "S", "Vh"))
        vector = common @ (sizes[:, None] * rows[task])
        torch.testing.assert_close(vector, experts[EXPERTS[task]][layer] - tensor, rtol=0, atol=left_out)
        torch.testing.assert_close(merged[layer] - tensor, vector, rtol=0, atol=1e-9)


@parametrize("eps", [1e-4, 1e-5])
@parametrize("share", [0.2, 0.6, 0.999])
@parametrize("consensus", ["ties", "sum"])
def test_knots_is_fusion_bench_s_ties_in_its_common_space(oracle, adapted, eps, share, consensus):
    base, experts = adapted
    common = {layer: oracle[f"knots/{eps}/{layer}/U"] for layer in LAYERS}
    wanted = oracle[f"knots/{eps}/{share}/{consensus}"]
    sizes = [common[layer].shape[1] * base[layer].shape[1] for layer in LAYERS]
    keeps = int(share * len(wanted)) + 1  # as the authors' code does: one more than the share
    density = min(1.0, (keeps + 0.5) / len(wanted))

    merged = Knots(0.7, density, consensus, threshold=eps)(base, experts)
    for layer, values in zip(LAYERS, wanted.split(sizes), strict=True):
        u = common[layer]
        block = values.view(u.shape[1], -1)
        torch.testing.assert_close(merged[layer], base[layer] + 0.7 * u @ block, rtol=0, atol=1e-8)
        torch.testing.assert_close(u.mT @ (merged[layer] - base[layer]) / 0.7, block, rtol=0, atol=1e-8)


def test_the_thresholds_of_authors_and_fusion_bench_tell_apart(oracle, adapted):
    ranks = {eps: oracle[f"knots/{eps}/tall/S"] for eps in (1e-4, 1e-5)}
    assert len(ranks[1e-5]) == len(ranks[1e-4]) + 1
    assert 1e-5 < ranks[1e-5].min() < 1e-4
    authors, theirs = (Knots(1.0, threshold=eps)(*adapted) for eps in (1e-5, 1e-4))
    assert (authors["wide"] - theirs["wide"]).abs().max() > 1e-3  # one more direction to rank, of all layers together
