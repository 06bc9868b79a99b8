import os
import pickle
import subprocess
import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Features, List, Value
from PIL import Image

from fusion_eval.config import build, compose_option, to_config
from fusion_eval.data import HuggingFace
from fusion_eval.errors import ConfigError, DataError

NAMES = ["joy", "anger", "fear"]
DEPTH = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
MASKS = np.random.default_rng(1).integers(0, 14, (3, 4, 5), dtype=np.uint8)
COLUMNS = {
    "text": (["a", "b", "c"], Value("string")),
    "other": (["x", "y", "z"], Value("string")),
    "score": ([0.5, 2.0, -1.0], Value("float64")),
    "stars": ([1, 5, 3], Value("int8")),
    "box": ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], List(Value("float32"))),
    "emotions": ([[0, 2], [], [1]], List(ClassLabel(names=NAMES))),
    "indices": ([[0, 2], [], [1]], List(Value("int64"))),
    "ragged": ([[1.0], [1.0, 2.0], []], List(Value("float32"))),
    "cat": ([1, 0, 1], Value("int64")),
    "dog": ([True, True, False], Value("bool")),
    "depth": (list(DEPTH), Array2D((4, 5), "float32")),
    "mask": ([Image.fromarray(mask) for mask in MASKS], datasets.Image()),
    "jagged": ([[[1], [1, 2]], [[1]], []], List(List(Value("int64")))),
    "scene": ([7, 7, 9], Value("int64")),
    "author": (["ann", "ann", "bob"], Value("string")),
    "gaps": ([1.0, None, 2.0], Value("float32")),
    "holes": (["u", None, "v"], Value("string")),
    "missing": ([[1.0], None, [2.0]], List(Value("float32"))),
    "strange": ([[], [0, -1], []], List(ClassLabel(names=NAMES))),
}


def save(path, columns=tuple(COLUMNS), rows=slice(None)):
    values = {name: COLUMNS[name][0] for name in columns}
    features = Features({name: COLUMNS[name][1] for name in columns})
    dataset = datasets.Dataset.from_dict(values, features=features)
    dataset.select(range(3)[rows]).save_to_disk(path)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("targets") / "saved")


def first_letter(value):
    return torch.tensor(ord(value[0]))


def join(value):
    return {"ids": torch.tensor([ord(text) for text in value.values()])}


def targets(path, **options):
    samples = HuggingFace(path, input="text", transform=first_letter, **options).load()
    return samples, [samples[index][1] for index in range(len(samples))]


EXPECTED = {
    ("number", "score"): torch.tensor([0.5, 2.0, -1.0]),
    ("number", "stars"): torch.tensor([1.0, 5.0, 3.0]),
    ("vector", "box"): torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    ("vector", ("score", "stars", "cat")): torch.tensor([[0.5, 1, 1], [2, 5, 0], [-1, 3, 1]]),
    ("labels", "emotions"): torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ("labels", ("cat", "dog")): torch.tensor([[1.0, 1], [0, 1], [1, 0]]),
    ("array", "depth"): torch.from_numpy(DEPTH),
    ("array", "mask"): torch.from_numpy(MASKS),
    ("array", "box"): torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
}


@pytest.mark.parametrize(("target_type", "column"), EXPECTED)
def test_targets_of_each_type(saved, target_type, column):
    column_or_list = list(column) if isinstance(column, tuple) else column
    samples, found = targets(saved, target=column_or_list, target_type=target_type)
    _, batch = samples.collate([samples[0], samples[1], samples[2]])
    assert torch.equal(batch, EXPECTED[target_type, column])
    assert batch.dtype == EXPECTED[target_type, column].dtype
    assert torch.equal(pickle.loads(pickle.dumps(samples))[1][1], found[1])


def test_classes_and_text(saved):
    assert targets(saved, target="stars")[1] == [1, 5, 3]
    samples, found = targets(saved, target="other", target_type="text")
    assert found == ["x", "y", "z"]
    assert samples.collate([samples[0], samples[2]])[1] == ("x", "z")


def test_labels_know_their_classes_and_their_column(saved):
    assert targets(saved, target="emotions", target_type="labels")[0].class_names == tuple(NAMES)
    assert targets(saved, target=["cat", "dog"], target_type="labels")[0].class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"set target to one of the columns: text"):
        targets(saved, target_type="labels")  # emotions and strange


def test_the_only_column_of_label_lists_is_found(tmp_path):
    path = save(tmp_path, ["text", "emotions", "indices"])
    assert torch.equal(targets(path, target_type="labels")[1][2], torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("target_type", "column", "message"),
    [
        ("number", "text", "column 'text' holds string, not numbers"),
        ("number", "gaps", "column 'gaps': row 1 has no target"),
        ("vector", "score", "holds double, not lists"),
        ("vector", "ragged", "row 1 has 2 numbers, row 0 has 1"),
        ("vector", "missing", "row 1 has no target"),
        ("vector", ["score", "text"], "column 'text' holds string, not numbers"),
        ("labels", "indices", r"without names of classes.*cast_column\('indices'"),
        ("labels", "strange", r"class -1 in row 1; it should be in \[0, 3\)"),
        ("labels", ["cat", "stars"], "column 'stars': 5 in row 1; labels should be 0 or 1"),
        ("text", "score", "holds double, not text"),
        ("text", "holes", "row 1 has no text"),
        ("class", "score", "holds double, not class indices.*or set target_type"),
        ("number", "scroe", "no column 'scroe'; did you mean 'score'"),
        ("vector", ["score", "x"], "no column 'x'"),
    ],
)
def test_other_targets_are_refused(saved, target_type, column, message):
    with pytest.raises(DataError, match=message):
        targets(saved, target=column, target_type=target_type)


def test_rows_without_a_value_are_refused_when_they_are_read(saved):
    samples = HuggingFace(saved, input="holes", target="stars", transform=first_letter).load()
    assert samples[0][0] == ord("u")
    with pytest.raises(DataError, match="row 1 has no value in column 'holes'"):
        samples[1]
    with pytest.raises(DataError, match="row 1 has no value in column 'missing'"):
        targets(saved, target="missing", target_type="array")
    with pytest.raises(DataError, match="row 0 of column 'jagged' is no array"):
        targets(saved, target="jagged", target_type="array")
    with pytest.raises(DataError, match=r"row 0 of column 'other': dtype .*; it should be numbers"):
        targets(saved, target="other", target_type="array")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_type": "numbers"}, "target_type='numbers'; did you mean 'number'"),
        ({"target": ["a", "b"]}, "several columns go with vector and labels"),
        ({"target": []}, "target=\\[\\]"),
        ({"input": []}, "input=\\[\\]"),
        ({"expected_size": 0}, "expected_size=0 of 'test'"),
        ({"expected_size": True}, "expected_size=True"),
        ({"expected_size": {"val": "many"}}, "expected_size='many' of 'val'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options, message):
    with pytest.raises(ConfigError, match=message):
        HuggingFace("x", **options)


def test_of_several_input_columns_the_transform_gets_a_dict(saved):
    samples = HuggingFace(saved, input=["other", "text"], target="stars", transform=join).load()
    assert samples[2][0]["ids"].tolist() == [ord("z"), ord("c")]
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == samples.fingerprint()


def test_several_input_columns_of_numbers_need_no_transform(saved):
    inputs, _ = HuggingFace(saved, input=["box", "stars"], target="stars").load()[1]
    assert torch.equal(inputs["box"], torch.tensor([3.0, 4.0]))
    assert torch.equal(inputs["stars"], torch.tensor(5))


def test_an_image_that_is_the_target_is_not_taken_as_input(tmp_path):
    features = Features({"image": datasets.Image(), "mask": datasets.Image()})
    images = [Image.new("RGB", (8, 8), (9, 9, 9))]
    rows = {"image": images, "mask": [Image.fromarray(MASKS[0])]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path)
    image, mask = HuggingFace(str(tmp_path), target="mask", target_type="array").load()[0]
    assert image.shape == (3, 224, 224)
    assert torch.equal(mask, torch.from_numpy(MASKS[0]))


@pytest.mark.parametrize(("column", "expected"), [("scene", [7, 7, 9]), ("author", ["ann", "ann", "bob"])])
def test_groups(saved, column, expected):
    samples, _ = targets(saved, target="stars", group=column)
    assert samples.groups.tolist() == expected


def test_samples_without_a_group_are_refused(saved):
    with pytest.raises(DataError, match="group column 'holes', row 1: None is no name"):
        targets(saved, target="stars", group="holes")


def test_the_fingerprint_sees_inputs_targets_and_groups(saved, tmp_path):
    def fingerprint(path=saved, **options):
        options = {"input": "text", "target": "stars", "transform": join if "input" in options else None} | options
        return HuggingFace(path, **{"transform": None, **options}).load().fingerprint()

    variants = [
        {},
        {"input": ["text"]},
        {"input": ["text", "other"]},
        {"input": ["other", "text"]},
        {"target": "cat"},
        {"group": "scene"},
        {"group": "author"},
        {"target": "stars", "target_type": "number"},
        {"target": "other", "target_type": "text"},
        {"target": "depth", "target_type": "array"},
        {"target": "mask", "target_type": "array"},
        {"target": "emotions", "target_type": "labels"},
        {"target": "box", "target_type": "vector"},
    ]
    found = [fingerprint(**options) for options in variants]
    assert len(set(found)) == len(variants)
    moved = save(tmp_path / "moved")
    assert [fingerprint(moved, **options) for options in variants] == found


def test_another_size_is_refused_with_what_circulates(saved):
    source = HuggingFace(
        saved, input="score", target="stars", expected_size=19_850, size_note="another split has 19,887 images."
    )
    with pytest.raises(DataError) as caught:
        source.load()
    expected = "split 'test' has 3 samples, expected 19,850 (another split has 19,887 images): numbers on it cannot be"
    assert expected in str(caught.value)
    assert "set path to the right data" in str(caught.value)
    assert len(replace(source, expected_size=3).load()) == 3


@pytest.mark.parametrize(
    ("name", "message"), [("sun397", "expected 19,850 .*19,887"), ("dtd", "expected 1,880 .*among those for training")]
)
def test_the_hub_configs_refuse_other_splits_in_circulation(tmp_path, name, message):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=NAMES)})
    rows = {"image": [Image.new("L", (4, 4))] * 3, "label": [0, 1, 2]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path)
    config = {**compose_option("dataset/hub", name), "path": str(tmp_path)}
    with pytest.raises(DataError, match=f"split 'test' has 3 samples, {message}"):
        build(config).load()
    assert len(build({**config, "expected_size": None}).load()) == 3


def test_a_size_is_expected_of_its_own_split_only(tmp_path):
    rows = {"x": [[1.0]] * 5, "y": [0] * 5}
    both = {"test": datasets.Dataset.from_dict(rows), "train": datasets.Dataset.from_dict(rows).select(range(4))}
    for split, dataset in both.items():
        dataset.to_parquet(tmp_path / f"data/{split}.parquet")
    source = HuggingFace(str(tmp_path), input="x", target="y", expected_size=5)
    assert [len(replace(source, split=split).load()) for split in ("test", "train", "test[:2]")] == [5, 4, 2]
    by_split = replace(source, expected_size={"test": 5, "train": 3})
    assert len(by_split.load()) == 5
    with pytest.raises(DataError, match="split 'train' has 4 samples, expected 3"):
        replace(by_split, split="train").load()
    assert build(to_config(source)) == source


OFFLINE = """
from fusion_eval.data import HuggingFace
from fusion_eval.errors import DataError
try:
    HuggingFace("someone/something", split="validation").load()
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_mode_is_respected_and_says_what_to_bring(tmp_path, variable):
    environment = {**os.environ, variable: "1", "HF_HOME": str(tmp_path)}
    printed = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "load_dataset('someone/something', split='validation').save_to_disk('DIR') where" in printed
    assert "offline" in printed.lower()
