"""Equal bits whatever the number of threads, the order of keys and experts, and the process."""

import os
import subprocess
import sys

import pytest
import torch

from fusion_eval.data.digest import digest_content
from fusion_eval.merging import (
    Average,
    Breadcrumbs,
    ConsensusTaskArithmetic,
    Dare,
    Della,
    EmrMerging,
    IsoC,
    IsoCTS,
    KarcherMean,
    Knots,
    Lines,
    ModelStock,
    MultiSlerp,
    NuSlerp,
    PcbMerging,
    Sce,
    Slerp,
    TallMask,
    TaskArithmetic,
    Ties,
    TsvMerge,
    WiseFt,
    WudiMerging,
)

METHODS = [
    Average(),
    Average(weights={"one": 0.3}),
    TaskArithmetic(),
    Ties(),
    Ties(trim="tensor", weights={"two": 2.0}),
    Dare(),
    Dare(consensus="ties"),
    Della(),
    Breadcrumbs(),
    Slerp("one", "two"),
    NuSlerp("one", "two"),
    MultiSlerp(),
    KarcherMean(),
    ModelStock(),
    Sce(),
    PcbMerging(),
    ConsensusTaskArithmetic(),
    TallMask().variant("two"),
    EmrMerging(),
    EmrMerging().variant("one"),
    IsoC(),
    IsoCTS(),
    TsvMerge(),
    WudiMerging(steps=2),
    Knots(),
    Lines(),
    WiseFt("one"),
]


def models():
    """Large enough that torch would share a tensor among threads."""
    generator = torch.Generator().manual_seed(0)

    def model():
        weight, bias = torch.randn(300, 400, generator=generator), torch.randn(70_001, generator=generator)
        return {"layer.0.weight": weight, "layer.1.bias": bias, "scale": torch.randn((), generator=generator)}

    return model(), {name: model() for name in ("one", "two", "three")}


def digest(merged):
    return digest_content(sorted(merged.items()))


def backwards(mapping):
    return dict(reversed(mapping.items()))


@pytest.fixture(params=METHODS, ids=str)
def method(request):
    return request.param


def test_threads_and_order_change_no_bit(method):
    base, experts = models()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = digest(method(base, experts))
        torch.set_num_threads(4)
        assert digest(method(base, experts)) == alone
    finally:
        torch.set_num_threads(threads)
    assert digest(method(backwards(base), backwards({name: backwards(e) for name, e in experts.items()}))) == alone


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_with_other_hashes_makes_the_same_bits(hash_seed):
    code = "import json, runpy, sys; m = runpy.run_path(sys.argv[1]); b, e = m['models']()\n"
    code += "print([m['digest'](method(b, e)) for method in m['METHODS']])"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    base, experts = models()
    assert run.stdout.strip() == str([digest(method(base, experts)) for method in METHODS])
