import functools
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from fusion_eval.config import build, compose_option, to_config
from fusion_eval.data import ImageTransform, MapStyle, TensorSamples
from fusion_eval.errors import DataError


class Digits(Dataset):
    """Shaped like torchvision's MNIST: arguments say where and which, items are (PIL image, int)."""

    def __init__(self, root, train=True):
        if root == "missing":
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        digits = load_digits()
        rows = slice(0, 1000) if train else slice(1000, None)
        self.images, self.targets = (digits.images[rows] * 15).astype(np.uint8), digits.target[rows]
        self.classes = [f"{digit} - digit" for digit in range(10)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), int(self.targets[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(1), 0)])


class NoLength(Dataset):
    def __getitem__(self, index):
        return torch.zeros(1), 0


@dataclass
class Named:
    classes: object
    items: tuple = (([1.0], 0),)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


SMALL = ImageTransform(size=8, mean=[0, 0, 0], std=[1, 1, 1])
PARTIAL = functools.partial(Digits, root="data", train=False)


def test_a_partial_is_called_only_by_load():
    source = MapStyle(functools.partial(Digits, root="missing"), transform=SMALL)
    with pytest.raises(DataError, match=r"cannot be made: RuntimeError: Dataset not found\. You can use download=True"):
        source.load()


def test_items_classes_and_targets():
    samples = MapStyle(PARTIAL, transform=SMALL).load()
    digits = load_digits()
    assert len(samples) == 797
    assert samples.class_names[3] == "3 - digit"
    for index in (0, 400, 796):
        value, target = samples[index]
        assert target == digits.target[1000 + index]
        expected = (digits.images[1000 + index] * 15).astype(np.uint8) / 255
        assert np.allclose(value.numpy(), expected[None], atol=1e-7)
    assert MapStyle(PARTIAL, SMALL, class_names=list("abcdefghij")).load().class_names == tuple("abcdefghij")


def test_yaml_builds_a_partial_and_comes_back():
    config = compose_option("dataset", "mapstyle")
    config["dataset"] |= {"_target_": "sklearn.datasets.load_digits", "return_X_y": True}
    source = build(config)
    assert source.dataset.func is load_digits
    assert source.dataset.keywords == {"return_X_y": True}
    again = build(to_config(source))
    assert (again.dataset.func, again.dataset.keywords) == (load_digits, {"return_X_y": True})


@pytest.mark.parametrize(
    "make", [lambda items: items, lambda items: lambda: items, Subset], ids=["list", "call", "Subset"]
)
def test_objects_functions_and_subsets_will_do(make):
    items = [(np.array([0.5, 1.5]), 1), (np.array([2.5, 3.5]), 0)]
    samples = MapStyle(make(items) if make is not Subset else Subset(items, [0, 1])).load()
    inputs, targets = next(iter(DataLoader(samples, batch_size=2)))
    assert inputs.equal(torch.tensor([[0.5, 1.5], [2.5, 3.5]]))
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [1, 0]


def test_a_tensor_dataset_of_torch():
    dataset = torch.utils.data.TensorDataset(torch.eye(3), torch.arange(3))
    value, target = MapStyle(dataset).load()[2]
    assert value.equal(torch.tensor([0.0, 0.0, 1.0]))
    assert int(target) == 2


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["cat", "dog"], ("cat", "dog")),
        ([("tench", "Tinca tinca"), ("goldfish",)], ("tench, Tinca tinca", "goldfish")),
        (None, None),
        (7, None),
    ],
)
def test_class_names_come_from_the_attribute_classes(classes, names):
    assert MapStyle(Named(classes)).load().class_names == names


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "list has no items"),
        (Stream(), "Stream is no map-style data set"),
        (NoLength(), "NoLength is no map-style data set: it needs __len__"),
        (3, "int is no map-style data set"),
        ([1, 2], r"item 0 of list should be \(input, target\): 1"),
        ([{"image": 1, "label": 2}], "item 0 of list should be"),
        ([(1, 2, 3)], "item 0 of list should be"),
        ([(Image.new("L", (2, 2)), 0)], r"sample 0: the input is a Image, not numbers; set transform, for images to"),
        ([(np.array([np.nan]), 0)], "sample 0: NaN"),
    ],
)
def test_data_sets_that_are_wrong_are_refused_by_load(dataset, message):
    with pytest.raises(DataError, match=message):
        MapStyle(dataset).load()


def test_a_wrong_item_later_is_named():
    samples = MapStyle([(1.0, 0), (1.0, 0), (1.0,)]).load()
    with pytest.raises(DataError, match="item 2 of list"):
        samples[2]
    with pytest.raises(DataError, match="item 2 of list"):
        samples.fingerprint()


def test_the_fingerprint_is_of_items_and_transform():
    fingerprint = MapStyle(PARTIAL, SMALL).load().fingerprint()
    assert MapStyle(Digits("other/place", train=False), SMALL).load().fingerprint() == fingerprint
    reversed_ = Subset(PARTIAL(), range(796, -1, -1))
    different = [
        MapStyle(PARTIAL, ImageTransform(size=9)).load(),
        MapStyle(functools.partial(Digits, root="data"), SMALL).load(),
        MapStyle(reversed_, SMALL).load(),
    ]
    assert len({fingerprint, *(samples.fingerprint() for samples in different)}) == 4


def test_a_changed_item_changes_the_fingerprint():
    tensors = torch.eye(3), torch.tensor([0, 1, 1])
    items = list(zip(*tensors, strict=True))
    changed = [items[0], items[1], (items[2][0] + 1e-6, items[2][1])]
    relabelled = [items[0], items[1], (items[2][0], torch.tensor(0))]
    assert len({MapStyle(each).load().fingerprint() for each in (items, changed, relabelled)}) == 3
    assert MapStyle(TensorSamples(*tensors)).load().fingerprint() == MapStyle(items).load().fingerprint()


def test_samples_survive_pickling():
    samples = MapStyle([(np.eye(2), 0), (np.ones((2, 2)), 1)]).load()
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == samples.fingerprint()
