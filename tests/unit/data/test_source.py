import os
import pickle
import subprocess
import sys

import pytest
import torch

from fusion_eval.data import DataSource, Samples, TensorSamples


@pytest.fixture
def samples():
    return TensorSamples(torch.arange(6.0).view(3, 2), torch.tensor([1, 0, 1]), ["no", "yes"])


def test_items_are_rows(samples):
    assert len(samples) == 3
    assert samples.class_names == ("no", "yes")
    assert [(value.tolist(), int(target)) for value, target in (samples[i] for i in range(3))] == [
        ([0.0, 1.0], 1),
        ([2.0, 3.0], 0),
        ([4.0, 5.0], 1),
    ]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 inputs but 2 targets"):
        TensorSamples(torch.zeros(3), torch.zeros(2))


def test_the_fingerprint_sees_values_dtypes_shapes_and_order(samples):
    inputs, targets = samples.inputs, samples.targets
    different = [
        samples,
        TensorSamples(inputs + 1e-6, targets),
        TensorSamples(inputs.double(), targets),
        TensorSamples(inputs.int(), targets),
        TensorSamples(inputs.view(3, 1, 2), targets),
        TensorSamples(inputs.flip(0), targets),
        TensorSamples(inputs, targets.flip(0) + 1),
        TensorSamples(inputs, targets.int()),
        TensorSamples(inputs[:2], targets[:2]),
    ]
    assert len({each.fingerprint() for each in different}) == len(different)


def test_the_fingerprint_ignores_strides_and_copies(samples):
    strided = TensorSamples(samples.inputs.T.contiguous().T, samples.targets.clone())
    assert strided.inputs.stride() != samples.inputs.stride()
    assert strided.fingerprint() == samples.fingerprint()
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == samples.fingerprint()


def test_the_fingerprint_is_the_same_in_another_process(samples):
    code = """
import torch
from fusion_eval.data import TensorSamples
print(TensorSamples(torch.arange(6.).view(3, 2), torch.tensor([1, 0, 1])).fingerprint())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "3"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == samples.fingerprint()


def test_bfloat16_bool_scalars_and_nothing_have_fingerprints():
    for inputs in (torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([True, False]), torch.zeros(2, 0)):
        assert len(TensorSamples(inputs, torch.zeros(2)).fingerprint()) == 32


@pytest.mark.parametrize("abstract", [DataSource, Samples])
def test_the_contracts_are_abstract(abstract):
    with pytest.raises(TypeError, match="abstract"):
        abstract()
