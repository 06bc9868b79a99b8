import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.torch import save_file

from fusion_eval.config import build, compose_option
from fusion_eval.data import Arrays, ImageTransform, TensorSamples
from fusion_eval.data.arrays import AsInput, as_inputs, as_targets
from fusion_eval.errors import ConfigError, DataError, suggest

INPUTS = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
TARGETS = np.array([0, 2, 1, 1, 0])


@pytest.fixture(params=["pair.npy", "one.npz", "one.safetensors", "mixed"])
def source(request, tmp_path):
    """The same content in every layout."""
    if request.param == "pair.npy":
        np.save(tmp_path / "x.npy", INPUTS)
        np.save(tmp_path / "y.npy", TARGETS)
        return Arrays(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    if request.param == "one.npz":
        np.savez_compressed(tmp_path / "xy.npz", inputs=INPUTS, targets=TARGETS)
        return Arrays(str(tmp_path / "xy.npz"))
    if request.param == "one.safetensors":
        tensors = {"pixels": torch.from_numpy(INPUTS), "labels": torch.from_numpy(TARGETS)}
        save_file(tensors, tmp_path / "xy.safetensors")
        return Arrays(str(tmp_path / "xy.safetensors"), input_key="pixels", target_key="labels")
    save_file({"inputs": torch.from_numpy(INPUTS)}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "y.npz", targets=TARGETS.astype(np.uint8))
    return Arrays(str(tmp_path / "x.safetensors"), str(tmp_path / "y.npz"))


def test_every_layout_gives_the_same_samples(source):
    samples = source.load()
    assert isinstance(samples, TensorSamples)
    assert samples.inputs.dtype == torch.float32
    assert samples.targets.dtype == torch.int64
    assert np.array_equal(samples.inputs.numpy(), INPUTS)
    assert samples.targets.tolist() == TARGETS.tolist()
    expected = TensorSamples(torch.from_numpy(INPUTS), torch.from_numpy(TARGETS))
    assert samples.fingerprint() == expected.fingerprint()
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [
        ("float16", torch.float32),
        (">f4", torch.float32),
        ("float64", torch.float32),
        ("int8", torch.int64),
        ("uint16", torch.int64),
        ("uint32", torch.int64),
        ("int64", torch.int64),
        ("uint8", torch.uint8),
        ("bool", torch.bool),
    ],
)
def test_dtypes(tmp_path, stored, loaded):
    values = np.array([[0, 1], [1, 100]]).astype(stored)
    np.savez(tmp_path / "xy.npz", inputs=values, targets=[0, 1])
    inputs = Arrays(str(tmp_path / "xy.npz")).load().inputs
    assert inputs.dtype == loaded
    assert inputs.tolist() == values.tolist()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_safetensors_floats_become_float32(tmp_path, stored):
    save_file({"inputs": torch.eye(2, dtype=stored), "targets": torch.tensor([0, 1])}, tmp_path / "xy.safetensors")
    assert Arrays(str(tmp_path / "xy.safetensors")).load().inputs.equal(torch.eye(2))


@given(hnp.arrays(st.sampled_from([np.int32, np.float64, np.uint8, np.bool_]), hnp.array_shapes(min_side=1)))
def test_numbers_keep_their_values(values):
    if values.dtype.kind == "f" and not (np.abs(values) <= np.finfo(np.float32).max).all():
        with pytest.raises(DataError, match="NaN or infinity"):
            as_inputs(values, "x")
    else:
        expected = values.astype(np.float32) if values.dtype.kind == "f" else values
        assert np.array_equal(as_inputs(values, "x").numpy(), expected)


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_is_copied():
    frozen = np.arange(3, dtype=np.float32)
    frozen.flags.writeable = False
    as_inputs(frozen, "x").add_(1)
    assert frozen.tolist() == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_files_are_mapped_not_read_and_never_written(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, INPUTS)
    else:
        save_file({"inputs": torch.from_numpy(INPUTS)}, path)
    np.save(tmp_path / "y.npy", TARGETS)
    stored = path.read_bytes()
    samples = Arrays(str(path), str(tmp_path / "y.npy")).load()
    assert str(path) in Path("/proc/self/maps").read_text()
    samples.inputs.add_(1)
    assert path.read_bytes() == stored


def test_a_transform_gets_each_input(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "xy.npz", inputs=images, targets=[0, 1, 0, 1])
    transform = ImageTransform(size=8)
    samples = Arrays(str(tmp_path / "xy.npz"), class_names=["a", "b"], transform=transform).load()
    assert samples.class_names == ("a", "b")
    assert samples[2][0].equal(transform(Image.fromarray(images[2])))
    raw = Arrays(str(tmp_path / "xy.npz")).load()
    assert raw.inputs.dtype == torch.uint8
    assert raw.fingerprint() != samples.fingerprint()


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS[:4], TARGETS, "4 inputs, but .* has 5 targets"),
        (INPUTS[:0], TARGETS[:0], "at least one row"),
        (np.float32(1), TARGETS, "at least one row"),
        (np.where(np.arange(5)[:, None] == 3, np.nan, 1.0), TARGETS, "NaN or infinity in the inputs of row 3"),
        (np.array([1, 1, 1e300, 1, 1]), TARGETS, "row 2"),
        (np.array(["a"] * 5), TARGETS, "should be numbers"),
        (np.ones(5, dtype=complex), TARGETS, "complex128; it should be numbers"),
        (INPUTS, TARGETS.astype(float), "targets are float64; class indices should be integers"),
        (INPUTS, TARGETS[:, None], r"shape \(5, 1\); it should be \(n,\)"),
        (INPUTS, np.eye(5, dtype=int), "one-hot rows, save the argmax"),
        (INPUTS, TARGETS - 1, r"target -1 of row 0; .* >= 0"),
        (INPUTS, np.array(["a"] * 5), "should be numbers"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path, inputs, targets, message):
    np.savez(tmp_path / "xy.npz", inputs=inputs, targets=targets)
    with pytest.raises(DataError, match=message) as caught:
        Arrays(str(tmp_path / "xy.npz")).load()
    assert "xy.npz" in str(caught.value)


def test_a_nan_far_behind_is_found():
    inputs = torch.zeros(1000, 3)
    inputs[777, 1] = torch.inf
    with pytest.raises(DataError, match="row 777"):
        as_inputs(inputs, "x")


def test_targets_are_checked_against_the_class_names():
    assert as_targets(np.array([True, False]), ["no", "yes"], "y").tolist() == [1, 0]
    with pytest.raises(DataError, match=r"y: target 2 of row 1; a class index should be in \[0, 2\)"):
        as_targets(TARGETS, ["no", "yes"], "y")


def test_pickled_objects_are_never_loaded(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "xy.npz", inputs=objects, targets=[0])
    for source in (Arrays(str(tmp_path / "x.npy"), str(tmp_path / "x.npy")), Arrays(str(tmp_path / "xy.npz"))):
        with pytest.raises(DataError, match="not a readable"):
            source.load()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage that is no file of any kind", b"\x93NUMPY\x01\x00", b"PK\x03\x04xx"]
)
def test_garbage_is_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\{suffix}: not a readable \{suffix} file"):
        Arrays(str(path), str(path)).load()


def test_a_file_cut_short_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", INPUTS)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"x\.npy: not a readable"):
        Arrays(str(tmp_path / "x.npy"), str(tmp_path / "x.npy")).load()


def test_keys_and_files_that_do_not_exist(tmp_path):
    np.savez(tmp_path / "xy.npz", inputs=INPUTS, target=TARGETS)
    save_file({"input": torch.ones(2)}, tmp_path / "xy.safetensors")
    with pytest.raises(DataError, match="no array 'targets'; did you mean 'target'"):
        Arrays(str(tmp_path / "xy.npz")).load()
    with pytest.raises(DataError, match="no tensor 'inputs'; did you mean 'input'"):
        Arrays(str(tmp_path / "xy.safetensors")).load()
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        Arrays(str(tmp_path / "gone.npz")).load()


def test_arguments_are_checked_at_construction():
    with pytest.raises(ConfigError, match=r"inputs='x\.pt'; it should end in \.npy, \.npz, \.safetensors"):
        Arrays("x.pt")
    with pytest.raises(ConfigError, match="set targets"):
        Arrays("x.npy")


@pytest.mark.parametrize(
    ("value", "message"),
    [("text", "is a str, not numbers"), (Image.new("L", (2, 2)), "ImageTransform"), ([1.0, float("nan")], "NaN")],
)
def test_inputs_that_are_no_numbers_are_refused(value, message):
    with pytest.raises(DataError, match=message):
        AsInput()(value)


def test_inputs_that_are_numbers():
    mapping = AsInput()({"input_ids": torch.tensor([1, 2]), "weights": [0.5, 1.0]})
    assert torch.equal(mapping["input_ids"], torch.tensor([1, 2]))
    assert torch.equal(mapping["weights"], torch.tensor([0.5, 1.0]))
    with pytest.raises(DataError, match="the input is a str"):
        AsInput()({"text": "a"})
    assert AsInput()(np.eye(2)).equal(torch.eye(2))
    assert AsInput()([1, 2]).equal(torch.tensor([1, 2]))
    assert AsInput()(torch.ones(1, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize(
    ("target_type", "targets"),
    [
        ("number", np.array([0.5, -1.0, 2.0])),
        ("number", np.array([1, 2, 3])),
        ("vector", np.array([[0.5, 1.0]] * 3)),
        ("labels", np.array([[True, False], [False, False], [True, True]])),
    ],
)
def test_targets_that_are_numbers(tmp_path, target_type, targets):
    np.savez(tmp_path / "a.npz", inputs=np.eye(3), targets=targets)
    samples = Arrays(str(tmp_path / "a.npz"), target_type=target_type).load()
    assert samples.targets.dtype == torch.float32
    assert np.array_equal(samples.targets.numpy(), targets.astype(np.float32))


@pytest.mark.parametrize(
    ("target_type", "targets", "message"),
    [
        ("number", np.ones((3, 1)), r"targets of shape \(3, 1\); of target_type=number it is \(n,\)"),
        ("vector", np.ones(3), r"it is \(n, k\)"),
        ("number", np.array([0.0, np.nan, 1.0]), "row 1 has no target"),
        ("vector", np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 1e39]]), "row 2 has no target, or one that is not finite"),
        ("labels", np.array([[0, 1], [0, 1], [0.5, 0]]), "0.5 in row 2; labels should be 0 or 1"),
        ("labels", np.ones((3, 3)), "labels for 3 classes, but class_names has 2"),
        ("number", np.array(["a", "b", "c"]), "it should be numbers"),
    ],
)
def test_numbers_that_are_no_targets_are_refused(tmp_path, target_type, targets, message):
    np.savez(tmp_path / "a.npz", inputs=np.eye(3), targets=targets)
    with pytest.raises(DataError, match=message):
        Arrays(str(tmp_path / "a.npz"), target_type=target_type, class_names=["a", "b"]).load()


def test_a_target_type_that_does_not_exist_is_refused_at_construction():
    with pytest.raises(ConfigError, match="target_type='labelz'; did you mean 'labels'"):
        Arrays("a.npz", target_type="labelz")


def test_suggest_lists_what_is_known():
    assert suggest("q", []) == "; Known: none"


def test_the_config_describes_the_defaults():
    assert build({**compose_option("dataset", "arrays"), "inputs": "xy.npz"}) == Arrays("xy.npz")
