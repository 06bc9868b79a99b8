from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusion_eval.data import Arrays, Corruption, Embedded, HuggingFace, ImageFolder, ImageTransform, TensorSamples
from fusion_eval.data.overlap import Overlap, describe_overlaps, find_overlap, scan_overlaps


def samples(values):
    inputs = torch.tensor(values, dtype=torch.float32).reshape(len(values), 1)
    return TensorSamples(inputs, torch.zeros(len(values)))


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_shared_samples_are_those_of_a_plain_loop(test, train):
    pairs = [(index, train.index(value)) for index, value in enumerate(test) if value in train]
    assert find_overlap(samples(test), samples(train)) == Overlap(len(pairs), len(test), tuple(pairs[:5]))


def pictures(count, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def save(root, split, images, suffix="png"):
    for index, image in enumerate(images):
        path = root / split / "ab"[index % 2] / f"{index:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def test_planted_duplicates_are_found_in_other_files_with_other_labels_under_other_transforms(tmp_path):
    test, train = pictures(8, seed=0), pictures(6, seed=1)
    train[1], train[4] = test[3], test[6]
    save(tmp_path, "test", test)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x"])})
    datasets.Dataset.from_dict({"image": train, "label": [0] * 6}, features=features).save_to_disk(tmp_path / "hub")
    folder = ImageFolder(str(tmp_path), transform=Corruption("jpeg", 5, ImageTransform(size=8)))
    # a folder is sorted by class: a has images 0, 2, 4, 6 and b 1, 3, 5, 7
    found = find_overlap(folder.load(), HuggingFace(str(tmp_path / "hub")).load())
    assert found == Overlap(2, 8, ((3, 4), (5, 1)))


def test_what_is_almost_the_same_is_another_sample(tmp_path):
    image = pictures(1, seed=0)[0]
    changed = image.copy()
    changed.putpixel((0, 0), tuple(255 - value for value in image.getpixel((0, 0))))
    save(tmp_path, "test", [image])
    save(tmp_path, "train", [changed, image.rotate(180)], "bmp")
    save(tmp_path, "val", [changed, image], "bmp")
    test, train, val = (ImageFolder(str(tmp_path), split).load() for split in ("test", "train", "val"))
    assert find_overlap(test, train).shared == 0
    assert find_overlap(test, val) == Overlap(1, 1, ((0, 1),))


def join(row):
    return torch.tensor([len(row["a"]), len(row["b"])])


def test_text_of_several_columns(tmp_path):
    for name, rows in {"test": {"a": ["x", "y"], "b": ["1", "2"]}, "train": {"a": ["x", "y"], "b": ["2", "2"]}}.items():
        datasets.Dataset.from_dict({**rows, "label": [0, 1]}).save_to_disk(tmp_path / name)
    test, train = (
        HuggingFace(str(tmp_path / name), input=["a", "b"], target="label", transform=join).load()
        for name in ("test", "train")
    )
    assert find_overlap(test, train) == Overlap(1, 2, ((1, 1),))


@pytest.mark.parametrize("name", ["mnist", "optdigits", "scripts", "textures"])
def test_no_embedded_image_is_in_two_splits(name):
    test, train, val = (Embedded(name, split) for split in ("test", "train", "val"))
    overlaps = scan_overlaps({name: test}, {name: {"train": train, "val": val}})
    assert describe_overlaps(overlaps) == []
    assert overlaps[name]["val"].count == len(test.load())


@dataclass
class Counting:
    source: Embedded
    loads: int = 0

    def load(self):
        self.loads += 1
        return self.source.load()


def test_what_is_evaluated_is_read_once_and_what_cannot_be_read_is_said(tmp_path):
    test = Counting(Embedded("mnist"))
    gone = Arrays(str(tmp_path / "gone.npz"))
    others = {
        "mnist": {"val": Embedded("mnist", "val"), "again": Embedded("mnist"), "gone": gone},
        "broken": {"x": test},
    }
    overlaps = scan_overlaps({"mnist": test, "broken": gone}, others)
    assert test.loads == 1
    assert overlaps["mnist"]["again"].shared == overlaps["mnist"]["again"].count == 1001
    sentences = describe_overlaps(overlaps)
    assert sentences[0] == (
        "mnist: 1,001 of 1,001 evaluated samples (100.0%) are also in 'again' (samples 0, 1, 2, 3, 4, ...)"
    )
    assert sentences[1].startswith("mnist: whether evaluated samples are also in 'gone' is unknown: ")
    assert "gone.npz: no such file" in sentences[1]
    assert sentences[2].startswith("broken: whether evaluated samples are also in 'x' is unknown: ")
