"""The writer against safetensors' own reader and writer."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusion_eval.errors import CheckpointError
from fusion_eval.models.safetensors_writer import SafetensorsWriter

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]


def layout_of(tensors):
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def write(path, tensors, order):
    with path.open("xb", buffering=0) as file, ThreadPoolExecutor(1) as threads:
        writer = SafetensorsWriter(file, layout_of(tensors), "here", threads)
        for name in order:
            writer.write(name, tensors[name])
        writer.finish()


def tensor_of(dtype, shape):
    return torch.randint(0, 2, shape).to(dtype)


@settings(max_examples=50, deadline=None)
@given(
    forms=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_the_reader_of_safetensors_reads_the_same(tmp_path_factory, forms, data):
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    tensors = {name: tensor_of(dtype, shape) for name, (dtype, shape) in forms.items()}
    write(path, tensors, data.draw(st.permutations(list(tensors))))
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert read[name].flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()


def test_values_strides_and_metadata(tmp_path):
    tensors = {"a": torch.randn(5, 3).T, "b": torch.randn(4)[::2].bfloat16(), "c": torch.tensor(1.5)}
    write(tmp_path / "x.safetensors", tensors, "cab")
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_bytes_that_safetensors_writes_wide_dtypes_first(tmp_path):
    tensors = {"flag": torch.tensor([True]), "half": torch.randn(3).half(), "ω": torch.randn(2).double()}
    write(tmp_path / "ours.safetensors", tensors, tensors)
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_a_missing_tensor(tmp_path):
    with pytest.raises(CheckpointError, match="here: 2 tensors were not given: a, c"):
        write(tmp_path / "x", {"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1)}, "b")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("b", torch.ones(2), "'b' is not expected"),
        ("a", torch.ones(3), r"'a' is torch\.float32 \(3,\), where torch\.float32 \(2,\) is expected"),
        ("a", torch.ones(2).half(), r"'a' is torch\.float16 \(2,\), where torch\.float32 \(2,\) is expected"),
    ],
)
def test_tensors_that_were_not_announced(tmp_path, name, tensor, message):
    with (
        (tmp_path / "x").open("xb", buffering=0) as file,
        ThreadPoolExecutor(1) as threads,
        pytest.raises(CheckpointError, match=message),
    ):
        SafetensorsWriter(file, layout_of({"a": torch.ones(2)}), "here", threads).write(name, tensor)


@pytest.mark.parametrize("written", [1, 2])
def test_what_does_not_reach_the_disk_is_told(tmp_path, monkeypatch, written):
    """The system tells of it once, to the thread that waits for the disk while the next tensors are written."""
    synced = []

    def sync(file):
        synced.append(file)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fusion_eval.models.safetensors_writer._SYNCED_AT_ONCE", 8)
    monkeypatch.setattr(os, "fsync", sync)
    tensors = {name: torch.ones(2) for name in "ab"[:written]}
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path / "x", tensors, tensors)


def test_a_tensor_that_comes_twice(tmp_path):
    with pytest.raises(CheckpointError, match="'a' is written already"):
        write(tmp_path / "x", {"a": torch.ones(2)}, "aa")


def test_a_dtype_the_format_has_not(tmp_path):
    with pytest.raises(CheckpointError, match=r"here: tensor 'a' is torch\.complex128"):
        write(tmp_path / "x", {"a": torch.ones(2, dtype=torch.complex128)}, "a")
