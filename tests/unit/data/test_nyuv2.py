from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion_eval.data import NYUv2
from fusion_eval.errors import ConfigError, DataError

SHAPES = {"image": (4, 6, 3), "label": (4, 6), "depth": (4, 6, 1), "normal": (4, 6, 3)}


@pytest.fixture
def root(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 12)):
        for folder, shape in SHAPES.items():
            place = tmp_path / split / folder
            place.mkdir(parents=True)
            for number in range(count):
                values = draw.integers(-1, 13, shape) if folder == "label" else draw.normal(size=shape)
                np.save(place / f"{number}.npy", values.astype(np.float32))
    return tmp_path


def stored(root, folder, number, split="val"):
    return np.load(root / split / folder / f"{number}.npy")


@pytest.mark.parametrize("target", ["segmentation", "depth", "normal"])
def test_a_sample_is_what_the_files_of_its_number_hold(root, target):
    samples = NYUv2(str(root), target=target).load()
    assert len(samples) == 12
    for number in (0, 2, 11):  # the tenth is not the second, as it would be in the order of names
        image, found = samples[number]
        assert image.dtype == torch.float32
        assert np.array_equal(image.numpy(), stored(root, "image", number).transpose(2, 0, 1))
        if target == "segmentation":
            assert found.dtype == torch.int64
            assert np.array_equal(found.numpy(), stored(root, "label", number))
        elif target == "depth":
            assert np.array_equal(found.numpy(), stored(root, "depth", number)[..., 0])
        else:
            assert np.array_equal(found.numpy(), stored(root, "normal", number).transpose(2, 0, 1))


def test_a_split_is_a_directory(root):
    assert len(NYUv2(str(root), "train").load()) == 3


def test_the_fingerprint_is_one_of_the_content(root):
    before = NYUv2(str(root)).load().fingerprint()
    assert before == NYUv2(f"{root}/").load().fingerprint()
    assert (
        before
        != NYUv2(str(root), target="depth").load().fingerprint()
        != NYUv2(str(root), "train").load().fingerprint()
    )
    label = stored(root, "label", 7)
    label[0, 0] += 1
    np.save(root / "val" / "label" / "7.npy", label)
    assert before != NYUv2(str(root)).load().fingerprint()


def test_another_number_of_images_than_expected_is_refused(root):
    with pytest.raises(DataError, match=r"val: 12 images, where 654 are expected: .* expected_size=null takes them"):
        NYUv2(str(root), expected_size={"train": 795, "val": 654}).load()
    assert len(NYUv2(str(root), "val", expected_size={"val": 12}).load()) == 12
    assert len(NYUv2(str(root), "val", expected_size={"train": 795}).load()) == 12


def test_a_missing_directory_is_named(root):
    with pytest.raises(DataError, match=r"test/image: no such directory; NYUv2 has root/train and root/val with the"):
        NYUv2(str(root), "test").load()


def test_a_missing_file_is_named(root):
    (root / "val" / "label" / "5.npy").unlink()
    with pytest.raises(DataError, match=r"label: the files should be named 0.npy to 10.npy; missing: 5.npy$"):
        NYUv2(str(root)).load()
    assert len(NYUv2(str(root), target="depth").load()) == 12


def test_fewer_targets_than_images_are_refused(root):
    (root / "val" / "label" / "11.npy").unlink()
    with pytest.raises(DataError, match="val: 12 images, but 11 files in label"):
        NYUv2(str(root)).load()


@pytest.mark.parametrize(
    ("folder", "array", "message"),
    [
        ("label", np.zeros((4, 6, 1)), r"3\.npy: shape \(4, 6, 1\); it should be \(height, width\)"),
        ("image", np.zeros((3, 4, 6)), r"3\.npy: shape \(3, 4, 6\); it should be \(height, width, 3\)"),
        ("image", np.zeros((5, 6, 3)), r"3\.npy: \(4, 6\) pixels, but the image has \(5, 6\)"),
        ("label", np.array(["a", None], dtype=object), r"3\.npy: cannot be read as an array of numbers"),
    ],
)
def test_a_wrong_array_is_refused_when_it_is_read(root, folder, array, message):
    np.save(root / "val" / folder / "3.npy", array)
    samples = NYUv2(str(root)).load()
    with pytest.raises(DataError, match=message):
        samples[3]


def test_a_damaged_file_is_named(root):
    file = root / "val" / "image" / "3.npy"
    file.write_bytes(file.read_bytes()[:90])
    with pytest.raises(DataError, match=r"image/3\.npy: cannot be read"):
        NYUv2(str(root)).load()[3]


def test_an_unknown_target_is_refused():
    with pytest.raises(ConfigError, match="target='normals'; did you mean 'normal'"):
        NYUv2("data", target="normals")
