import io
import pickle
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fusion_eval.config import build, compose_option
from fusion_eval.data import HuggingFace, ImageTransform
from fusion_eval.errors import DataError

SMALL = ImageTransform(size=8)
NAMES = ["ant", "bee", "cat"]
IMAGES = [Image.fromarray(pixels) for pixels in np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)]
LABELS = [2, 0, 1, 1, 0]


@pytest.fixture(scope="module", autouse=True)
def _quiet_and_private_cache(tmp_path_factory):
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def pictures(images=IMAGES, labels=LABELS, **features):
    columns = {"image": images, "label": labels}
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), **features}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(types))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved"
    datasets.DatasetDict({"test": pictures(), "train": pictures(IMAGES[:1], [0])}).save_to_disk(path)
    return str(path)


def check_pictures(samples):
    assert samples.class_names == tuple(NAMES)
    assert [samples[i][1] for i in range(len(samples))] == LABELS
    for index, image in enumerate(IMAGES):
        assert torch.equal(samples[index][0], SMALL(image))


def test_a_dataset_dict_saved_to_disk(saved):
    check_pictures(HuggingFace(saved, transform=SMALL).load())
    assert len(HuggingFace(saved, split="train").load()) == 1
    with pytest.raises(DataError, match=r"no split 'tset'; did you mean 'test'\? Known: test, train"):
        HuggingFace(saved, split="tset").load()


def test_a_dataset_saved_to_disk(saved):
    check_pictures(HuggingFace(f"{saved}/test", transform=SMALL).load())


def test_a_saved_dataset_that_says_it_is_another_split_is_refused(tmp_path):
    train = datasets.Dataset.from_dict({"x": [[1.0]], "y": [0]}, split=datasets.Split.TRAIN)
    train.save_to_disk(tmp_path / "train")
    source = {"path": str(tmp_path / "train"), "input": "x", "target": "y"}
    with pytest.raises(DataError, match="holds split 'train', not 'test'"):
        HuggingFace(**source).load()
    assert len(HuggingFace(**source, split="train").load()) == 1


def test_a_directory_of_parquet_files_with_slices(tmp_path):
    pictures().to_parquet(tmp_path / "data/test-00000-of-00001.parquet")
    check_pictures(HuggingFace(str(tmp_path), transform=SMALL).load())
    assert len(HuggingFace(str(tmp_path), split="test[:2]", transform=SMALL).load()) == 2
    with pytest.raises(DataError, match=r"Unknown split \"val\". Should be one of \['test'\]"):
        HuggingFace(str(tmp_path), split="val").load()


def test_a_directory_of_image_files(tmp_path):
    for index, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = tmp_path / "test" / NAMES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    samples = HuggingFace(str(tmp_path), transform=SMALL).load()
    order = np.argsort(LABELS, kind="stable")
    assert samples.class_names == tuple(NAMES)
    assert [samples[i][1] for i in range(5)] == sorted(LABELS)
    assert all(torch.equal(samples[i][0], SMALL(IMAGES[j])) for i, j in enumerate(order))
    assert len(samples.fingerprint()) == 32  # these images are paths, not bytes


def test_the_default_transform_of_images_is_clips(saved):
    assert torch.equal(HuggingFace(saved).load()[0][0], ImageTransform()(IMAGES[0]))


def test_numbers_become_tensors(tmp_path):
    features = datasets.Features(
        {
            "vector": datasets.List(datasets.Value("float64")),
            "grid": datasets.Array2D((2, 2), "uint8"),
            "ids": datasets.List(datasets.Value("int32")),
            "age": datasets.Value("int64"),
            "y": datasets.Value("bool"),
        }
    )
    rows = {"vector": [[1.5, 2.5]], "grid": [[[1, 2], [3, 4]]], "ids": [[7, 8, 9]], "age": [40], "y": [True]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path)
    expected = {
        "vector": torch.tensor([1.5, 2.5]),
        "grid": torch.tensor([[1, 2], [3, 4]]),
        "ids": torch.tensor([7, 8, 9]),
        "age": torch.tensor(40),
    }
    for column, tensor in expected.items():
        value, target = HuggingFace(str(tmp_path), input=column, target="y").load()[0]
        assert torch.equal(value, tensor)
        assert value.dtype == tensor.dtype
        assert target == 1


def encode(text):
    return {"input_ids": torch.tensor([ord(letter) for letter in text])}


def test_text_needs_a_transform(tmp_path):
    datasets.Dataset.from_dict({"text": ["ab", "cd"], "y": [0, 1]}).save_to_disk(tmp_path)
    with pytest.raises(DataError, match="sample 0: the input is a str, not numbers; set transform"):
        HuggingFace(str(tmp_path), input="text", target="y").load()[0]
    samples = HuggingFace(str(tmp_path), input="text", target="y", transform=encode).load()
    assert samples[1][0]["input_ids"].tolist() == [99, 100]


def test_a_remembered_format_is_ignored(tmp_path):
    pictures().with_format("torch").save_to_disk(tmp_path)
    check_pictures(HuggingFace(str(tmp_path), transform=SMALL).load())


def test_ambiguous_columns_are_listed(tmp_path):
    one = datasets.ClassLabel(names=["x"])
    rows = {"img": IMAGES[:1], "fine": [0], "coarse": [0]}
    features = datasets.Features({"img": datasets.Image(), "fine": one, "coarse": one})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "two")
    with pytest.raises(
        DataError, match=r"set target to one of the columns: img \(Image\), fine \(ClassLabel\), coarse"
    ):
        HuggingFace(str(tmp_path / "two")).load()
    assert HuggingFace(str(tmp_path / "two"), target="fine").load().class_names == ("x",)
    with pytest.raises(DataError, match=r"no column 'fien'; did you mean 'fine'"):
        HuggingFace(str(tmp_path / "two"), target="fien").load()
    datasets.Dataset.from_dict({"text": ["a"], "y": [0]}).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match=r"set input to one of the columns: text \(Value\), y \(Value\)"):
        HuggingFace(str(tmp_path / "none"), target="y").load()


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([2, -1, 1, 1, 0], datasets.ClassLabel(names=NAMES), "row 1 has no label"),
        ([2, 1, None, 1, 0], datasets.ClassLabel(names=NAMES), "row 2 has no label"),
        ([2, -5, 1, 1, 0], datasets.Value("int8"), "target -5 of row 1"),
        (["a", "b", "a", "a", "a"], datasets.Value("string"), r"holds string, .*class_encode_column\('label'\)"),
        ([0.0] * 5, datasets.Value("float32"), "holds float, not class indices"),
    ],
)
def test_targets_that_are_no_classes_are_refused(tmp_path, labels, feature, message):
    pictures(labels=labels, label=feature).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=message):
        HuggingFace(str(tmp_path), target="label").load()


def test_a_broken_image_is_named_by_row(tmp_path):
    buffer = io.BytesIO()
    IMAGES[1].save(buffer, "PNG")
    cut = {"bytes": buffer.getvalue()[:100], "path": None}
    pictures([IMAGES[0], cut], [0, 1]).save_to_disk(tmp_path)
    samples = HuggingFace(str(tmp_path), transform=SMALL).load()
    assert samples[0][1] == 0
    with pytest.raises(DataError, match=r"row 1 cannot be decoded"):
        samples[1]


def test_what_is_no_image_is_named_by_row_and_nothing_else(tmp_path):
    pictures([IMAGES[0], {"bytes": b"<html>", "path": None}], [0, 1]).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"row 1 cannot be decoded: cannot identify image file$"):
        HuggingFace(str(tmp_path), transform=SMALL).load()[1]


def test_an_image_of_16_bits_is_refused_and_the_error_says_what_to_do(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    pictures([{"bytes": buffer.getvalue(), "path": None}], [0]).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"sample 0: .* this one has more \(mode I;16\); scale its values to 0..255"):
        HuggingFace(str(tmp_path), transform=SMALL).load()[0]


@pytest.mark.parametrize("together", [False, True])
def test_a_split_without_samples_is_refused(together, tmp_path):
    empty = pictures([], [])
    (datasets.DatasetDict({"test": empty}) if together else empty).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"it was saved with a split of no samples"):
        HuggingFace(str(tmp_path)).load()


@pytest.mark.parametrize("path", ["/no/such", "no/such/directory", "./absent"])
def test_a_directory_that_is_not_there_is_not_looked_for_on_the_hub(path):
    with pytest.raises(DataError, match=f"^{path}: no such directory; give one of save_to_disk, .* or a hub id$"):
        HuggingFace(path).load()


def test_the_fingerprint_is_of_content_wherever_it_lies(saved, tmp_path):
    def fingerprint(dataset, **options):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        dataset.save_to_disk(path)
        return HuggingFace(str(path), **{"transform": SMALL, **options}).load().fingerprint()

    expected = HuggingFace(saved, transform=SMALL).load().fingerprint()
    assert fingerprint(pictures()) == expected
    assert fingerprint(pictures().add_column("note", list("abcde"))) == expected  # not a part of the samples
    assert fingerprint(pictures().select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0])) == expected
    different = {
        expected,
        fingerprint(pictures().select([4, 3, 2, 1, 0])),
        fingerprint(pictures(labels=[2, 0, 1, 1, 1])),
        fingerprint(pictures(images=[*IMAGES[:4], IMAGES[0]])),
        fingerprint(pictures(), transform=ImageTransform(size=9)),
    }
    assert len(different) == 5


@pytest.mark.parametrize(("column", "other"), [([[1.0, 2.0]], [[1.0, 2.5]]), (["ab"], ["ac"]), ([3], [4])])
def test_the_fingerprint_sees_numbers_and_text(tmp_path, column, other):
    for name, values in (("a", column), ("b", other), ("c", column)):
        datasets.Dataset.from_dict({"x": values, "y": [0]}).save_to_disk(tmp_path / name)
    a, b, c = (HuggingFace(str(tmp_path / name), input="x", target="y").load().fingerprint() for name in "abc")
    assert a == c != b


def test_spawned_workers_give_the_same_samples(saved):
    samples = HuggingFace(saved, transform=SMALL).load()
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == samples.fingerprint()
    loader = DataLoader(samples, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    inputs, targets = next(iter(loader))
    assert targets.tolist() == LABELS
    assert torch.equal(inputs, torch.stack([SMALL(image) for image in IMAGES]))


def test_offline_says_what_to_bring_and_where_to_put_it(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        HuggingFace("ylecun/mnist", name="mnist", revision="abc123").load()
    message = str(caught.value)
    assert "ylecun/mnist: cannot be loaded: Couldn't reach" in message
    assert (
        "datasets.load_dataset('ylecun/mnist', 'mnist', revision='abc123', split='test').save_to_disk('DIR')" in message
    )
    assert "set path to it" in message
    assert f"There is no directory {Path('ylecun/mnist').absolute()}: if one is meant, correct path" in message


def test_a_directory_without_data_is_refused_without_advice_to_download(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        HuggingFace(str(tmp_path)).load()
    assert "save_to_disk" not in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "fusion-eval\[hf\]"'):
        HuggingFace("ylecun/mnist").load()


def test_the_config_describes_the_defaults():
    assert build({**compose_option("dataset", "huggingface"), "path": "ylecun/mnist"}) == HuggingFace("ylecun/mnist")
